package operator

import (
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/fleet/admission"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// Token is a one-time token as the list shows it. Its text is told once, to whom
// made it.
type Token struct {
	ID             string    `json:"id"`
	Text           string    `json:"token,omitempty"` // in the answer to its making alone
	State          string    `json:"state"`           // unused, used, ended, expired
	Note           string    `json:"note,omitempty"`
	By             string    `json:"by"`
	Created        time.Time `json:"created"`
	Expires        time.Time `json:"expires"`
	AcceptEK       bool      `json:"accept_ek"`
	AcceptFirmware bool      `json:"accept_firmware"`
	AcceptSoftware bool      `json:"accept_software,omitempty"`
	Device         string    `json:"device,omitempty"`
}

// NewToken is the body that makes one.
type NewToken struct {
	By             string `json:"by"`
	Note           string `json:"note,omitempty"`
	Seconds        int64  `json:"seconds"` // its life
	AcceptEK       bool   `json:"accept_ek,omitempty"`
	AcceptFirmware bool   `json:"accept_firmware,omitempty"`
	AcceptSoftware bool   `json:"accept_software,omitempty"` // also for a gateway without a TPM
}

// Allowed is an entry of the allow-list, and the body that adds or removes one.
type Allowed struct {
	Kind           string    `json:"kind"`  // ek, serial
	Value          string    `json:"value"` // hex
	Note           string    `json:"note,omitempty"`
	By             string    `json:"by"`
	Created        time.Time `json:"created,omitzero"`
	AcceptFirmware bool      `json:"accept_firmware,omitempty"`
	Device         string    `json:"device,omitempty"` // that it admitted
}

func (a *api) tokenOf(t registry.Token) Token {
	state := "unused"
	switch {
	case t.Device != "":
		state = "used"
	case !t.RevokedAt.IsZero():
		state = "ended"
	case !a.Now().Before(t.Expires):
		state = "expired"
	}
	return Token{
		ID: t.ID, State: state, Note: t.Note, By: t.By, Created: t.Created, Expires: t.Expires,
		AcceptEK: t.AcceptEK, AcceptFirmware: t.AcceptFirmware, AcceptSoftware: t.AcceptSoftware, Device: t.Device,
	}
}

func (a *api) tokens(r *http.Request) (any, error) {
	all, err := a.Registry.Tokens(r.Context())
	if err != nil {
		return nil, err
	}
	list := make([]Token, 0, len(all))
	for _, t := range all {
		list = append(list, a.tokenOf(t))
	}
	return list, nil
}

func (a *api) makeToken(r *http.Request) (any, error) {
	var ask NewToken
	if err := readJSON(r, &ask); err != nil {
		return nil, err
	}
	life := admission.MaxTokenLife
	if ask.Seconds < int64(life/time.Second) {
		life = time.Duration(ask.Seconds) * time.Second
	}
	if ask.By == "" || life <= 0 {
		return nil, refuse(http.StatusBadRequest, "who makes the token, or for how long, is missing", "give --by NAME and --life DURATION")
	}
	now := a.Now().UTC()
	t := registry.Token{
		By: ask.By, Note: ask.Note, Created: now, Expires: now.Add(life),
		AcceptEK: ask.AcceptEK, AcceptFirmware: ask.AcceptFirmware, AcceptSoftware: ask.AcceptSoftware,
	}
	var err error
	var text string
	if t.ID, text, err = admission.NewToken(r.Context(), a.Registry, t); err != nil {
		return nil, err
	}
	answer := a.tokenOf(t)
	answer.Text = text
	return answer, nil
}

func (a *api) endToken(r *http.Request) (any, error) {
	var decision Decision
	if err := readJSON(r, &decision); err != nil {
		return nil, err
	}
	if decision.By == "" {
		return nil, refuse(http.StatusBadRequest, "nobody is named as the one who ends it", "give --by NAME")
	}
	err := a.Registry.RevokeToken(r.Context(), r.PathValue("id"), decision.By, decision.Reason, a.Now())
	if errors.Is(err, registry.ErrNotFound) {
		return nil, refuse(http.StatusConflict, "there is no unused token "+r.PathValue("id"), "gatewarden-fleet tokens list shows all; a gateway that used one is shut out by devices revoke")
	}
	return struct{}{}, err
}

// allowed answers all entries: a list for a whole lot is read at once.
func (a *api) allowed(r *http.Request) (any, error) {
	list, last := []Allowed{}, registry.Allowed{}
	for {
		page, err := a.Registry.AllowList(r.Context(), last)
		if err != nil || len(page) == 0 {
			return list, err
		}
		for _, e := range page {
			list = append(list, Allowed{
				Kind: e.Kind, Value: e.Value, Note: e.Note, By: e.By, Created: e.Created, AcceptFirmware: e.AcceptFirmware, Device: e.Device,
			})
		}
		last = page[len(page)-1]
	}
}

func (a *api) allow(r *http.Request) (any, error) {
	entry, err := readAllowed(r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Registry.AddAllowed(r.Context(), registry.Allowed{
		Kind: entry.Kind, Value: entry.Value, Note: entry.Note, By: entry.By, Created: a.Now(), AcceptFirmware: entry.AcceptFirmware,
	})
}

func (a *api) disallow(r *http.Request) (any, error) {
	entry, err := readAllowed(r)
	if err != nil {
		return nil, err
	}
	err = a.Registry.RemoveAllowed(r.Context(), entry.Kind, entry.Value, entry.By, a.Now())
	if errors.Is(err, registry.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, "the allow-list has no "+entry.Kind+" "+entry.Value, "gatewarden-fleet allow list shows it")
	}
	return struct{}{}, err
}

// readAllowed brings the value into the form in which the fleet computes it.
func readAllowed(r *http.Request) (Allowed, error) {
	var e Allowed
	if err := readJSON(r, &e); err != nil {
		return e, err
	}
	value := strings.ToLower(strings.ReplaceAll(e.Value, ":", ""))
	raw, err := hex.DecodeString(strings.Repeat("0", len(value)%2) + value)
	switch {
	case e.By == "":
		return e, refuse(http.StatusBadRequest, "nobody is named as the one who decides", "give --by NAME")
	case (e.Kind == registry.AllowEK || e.Kind == registry.AllowIAK) && (err != nil || len(raw) != 32):
		return e, refuse(http.StatusBadRequest, "the hash of an EK or IAK is SHA-256 in hex", "docs/ca.md says how to compute it; --certificate does so")
	case e.Kind == registry.AllowSerial && (err != nil || len(raw) == 0 || len(raw) > 32):
		return e, refuse(http.StatusBadRequest, "a serial number is 1 to 32 bytes in hex", "openssl x509 -serial shows it")
	case e.Kind != registry.AllowEK && e.Kind != registry.AllowSerial && e.Kind != registry.AllowIAK:
		return e, refuse(http.StatusBadRequest, "the allow-list holds hashes of EKs and IAKs, and serial numbers", "give kind ek, iak or serial")
	}
	e.Value = value
	if e.Kind == registry.AllowSerial {
		e.Value = strings.TrimLeft(value, "0")
	}
	return e, nil
}
