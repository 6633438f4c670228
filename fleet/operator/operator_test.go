package operator_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const id = "gw-aaaaaaaaaaaaaaaa"

// office is the API behind its socket.
type office struct {
	*testing.T
	store     *registry.Store
	socket    string
	client    *operator.Client
	vouched   bool
	delivered []string
	dropped   []string
}

func newOffice(t *testing.T) *office {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o := &office{T: t, socket: filepath.Join(dir, "o"), vouched: true}
	o.store, err = registry.OpenSQLite(filepath.Join(dir, "registry.db"))
	o.must(err)
	t.Cleanup(func() { o.store.Close() })
	handler, err := operator.New(operator.Config{
		Fleet: "lab", Registry: o.store, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Deliver: func(_ context.Context, device string) error {
			o.delivered = append(o.delivered, device)
			return errors.New("it is not connected")
		},
		Drop:    func(identity string) { o.dropped = append(o.dropped, identity) },
		Vouched: func(registry.Device) bool { return o.vouched },
	})
	o.must(err)
	l, err := net.Listen("unix", o.socket)
	o.must(err)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	o.client = operator.NewClient(o.socket)
	_, _, err = o.store.Enroll(t.Context(), registry.Device{ID: id, Model: "box", Hostname: "h", EKName: []byte("x"), AKPublic: []byte("ak"), Created: time.Now()})
	o.must(err)
	return o
}

func (o *office) must(err error) {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
}

// attested stores a verdict that the attestation key ak earned.
func (o *office) attested(ak string) {
	o.Helper()
	facts, err := json.Marshal(attest.Facts{})
	o.must(err)
	memory, err := json.Marshal(map[string]any{"attest": attest.Memory{Clock: attest.Clock{Key: sha256.Sum256([]byte(ak))}}})
	o.must(err)
	o.must(o.store.AddVerdict(o.Context(), registry.Verdict{
		Device: id, At: time.Now(), Grade: "degraded", Explanation: []string{"unknown firmware"}, Facts: facts, Rules: json.RawMessage("[]"), Memory: memory,
	}))
}

func (o *office) state() registry.Device {
	o.Helper()
	d, err := o.store.Device(o.Context(), id)
	o.must(err)
	return d
}

// refused checks that err says all of this, with a hint.
func (o *office) refused(err error, says ...string) {
	o.Helper()
	if err == nil || !strings.Contains(err.Error(), "\nhint: ") {
		o.Errorf("error %v, want one with a hint", err)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			o.Errorf("%q does not say %q", err, s)
		}
	}
}

func TestApprovalWantsAPersonAnAttestationAndAMaker(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	olga := operator.Decision{By: "olga", Reason: "new box"}
	o.refused(o.client.Approve(ctx, "gw-bbbbbbbbbbbbbbbb", olga), "no such device")
	o.refused(o.client.Approve(ctx, id, operator.Decision{}), "nobody is named", "--by")
	o.refused(o.client.Approve(ctx, id, olga), "has not attested yet")
	o.attested("the key before this one")
	o.refused(o.client.Approve(ctx, id, olga), "has not attested yet")
	o.attested("ak")
	o.vouched = false
	o.refused(o.client.Approve(ctx, id, olga), "no known TPM maker", "--accept-ek")
	if o.state().State != registry.Pending {
		t.Fatal("a refusal changed the state")
	}
	olga.AcceptEK = true
	o.must(o.client.Approve(ctx, id, olga))
	if d := o.state(); d.State != registry.Active || d.ApprovedBy != "olga" {
		t.Errorf("state %s, approved by %q", d.State, d.ApprovedBy)
	}
	if sets, err := o.store.Firmware(ctx, "box"); err != nil || len(sets) != 1 {
		t.Errorf("%d firmware sets frozen, %v", len(sets), err)
	}
	o.refused(o.client.Approve(ctx, id, olga), "is active")
}

func TestRevocationTakesEverythingAtOnce(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	o.must(o.store.SetState(ctx, id, registry.Active, "olga", "", time.Now()))
	o.must(o.store.AddCertificate(ctx, registry.Certificate{Serial: "1", Device: id, NotAfter: time.Now().Add(time.Hour), DER: []byte("x")}, ""))
	o.refused(o.client.Revoke(ctx, id, operator.Decision{By: "olga"}), "--reason")
	o.refused(o.client.Revoke(ctx, id, operator.Decision{Reason: "stolen"}), "--by")
	o.must(o.client.Revoke(ctx, id, operator.Decision{By: "olga", Reason: "stolen"}))
	o.must(o.client.Revoke(ctx, id, operator.Decision{By: "olga", Reason: "stolen"})) // safe to repeat
	if o.state().State != registry.Revoked {
		t.Errorf("state %s", o.state().State)
	}
	if revoked, err := o.store.IsRevoked(ctx, "1"); err != nil || !revoked {
		t.Errorf("its certificate is good: %v", err)
	}
	if !slices.Contains(o.dropped, id) || !slices.Contains(o.dropped, wire.QuarantineID(id)) {
		t.Errorf("sessions dropped: %v", o.dropped)
	}
	detail, err := o.client.Device(ctx, id)
	o.must(err)
	if detail.State != registry.Revoked || len(detail.Certificates) != 1 || detail.Certificates[0].Revoked != "stolen" {
		t.Errorf("%+v", detail)
	}
}

func TestCommandIsKeptAsItWasSignedEvenIfNobodyCanReadIt(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	good, err := json.Marshal(wire.Command{Version: 1, ID: "0123456789abcdef", Verb: "ping", Reason: "test", Expires: time.Now().Add(time.Hour)})
	o.must(err)
	expired, err := json.Marshal(wire.Command{Version: 1, ID: "0123456789abcdee", Verb: "ping", Expires: time.Now().Add(-time.Hour)})
	o.must(err)
	for verb, command := range map[string][]byte{"ping": good, "unreadable": []byte("{garbage"), "ping, expired": expired} {
		hash, err := o.client.Command(ctx, id, wire.Envelope{Command: command, Signatures: []string{"x"}})
		o.must(err)
		pending, err := o.store.PendingCommands(ctx, id, time.Now())
		o.must(err)
		n := slices.IndexFunc(pending, func(c registry.CommandRecord) bool { return c.Hash == hash })
		if n < 0 {
			t.Fatalf("%s: not stored for delivery", verb)
		}
		var kept wire.Envelope
		o.must(json.Unmarshal(pending[n].Envelope, &kept))
		if string(kept.Command) != string(command) || !strings.HasPrefix(verb, pending[n].Verb) {
			t.Errorf("%s: kept %q as %s", verb, kept.Command, pending[n].Verb)
		}
	}
	if len(o.delivered) != 3 {
		t.Errorf("delivery tried %d times", len(o.delivered))
	}
	_, err = o.client.Command(ctx, "gw-bbbbbbbbbbbbbbbb", wire.Envelope{Command: good})
	o.refused(err, "no such device")
}

func TestListFiltersAndMalformedRequestsAreRefused(t *testing.T) {
	o := newOffice(t)
	for query, want := range map[string]int{"": 1, "state=pending": 1, "state=active": 0, "search=h": 1, "model=other": 0, "after=" + id: 0} {
		q, err := url.ParseQuery(query)
		o.must(err)
		if list, err := o.client.Devices(t.Context(), q); err != nil || len(list) != want {
			t.Errorf("%q: %d devices, %v", query, len(list), err)
		}
	}
	for _, query := range []string{"state=aktive", "grade=good", "keys=chip"} {
		q, err := url.ParseQuery(query)
		o.must(err)
		_, err = o.client.Devices(t.Context(), q)
		o.refused(err, "there is no "+strings.Split(query, "=")[0], "it is one of")
	}
	raw := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", o.socket)
	}}}
	defer raw.CloseIdleConnections()
	for path, body := range map[string]string{
		"approve": `{"by":"olga","surprise":1}`, "revoke": `{"by":"a","By":"b"}`, "commands": `{"command":1}`, "approve?": "", "revoke?": strings.Repeat("x", wire.MaxBody+1),
	} {
		resp, err := raw.Post("http://fleet/v1/devices/"+id+"/"+strings.TrimSuffix(path, "?"), "application/json", strings.NewReader(body))
		o.must(err)
		text, err := io.ReadAll(resp.Body)
		o.must(err)
		resp.Body.Close()
		var p wire.Problem
		if json.Unmarshal(text, &p) != nil || resp.StatusCode != http.StatusBadRequest || p.Title == "" || p.Detail == "" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	gone := operator.NewClient(filepath.Join(t.TempDir(), "nobody"))
	if _, err := gone.Devices(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "is it running") {
		t.Errorf("no server: %v", err)
	}
}

func TestLeavingIsAPersonsDecisionAndTakesEverythingAtOnce(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	why := operator.Decision{By: "olga", Reason: "sold"}
	for name, c := range map[string]struct {
		do    func(context.Context, string, operator.Decision) error
		state string
	}{
		"decommission": {o.client.Decommission, registry.Decommissioned}, "transfer": {o.client.Transfer, registry.Pending},
	} {
		o.must(o.store.SetState(ctx, id, registry.Active, "olga", "", time.Now()))
		serial := name
		o.must(o.store.AddCertificate(ctx, registry.Certificate{Serial: serial, Device: id, NotAfter: time.Now().Add(time.Hour), DER: []byte("x")}, ""))
		o.dropped = nil
		o.refused(c.do(ctx, id, operator.Decision{By: "olga"}), "--reason")
		o.refused(c.do(ctx, "gw-bbbbbbbbbbbbbbbb", why), "no such device")
		o.must(c.do(ctx, id, why))
		if revoked, err := o.store.IsRevoked(ctx, serial); err != nil || !revoked || o.state().State != c.state || len(o.dropped) != 2 {
			t.Errorf("%s: certificate revoked %v, %v; state %s, dropped %v", name, revoked, err, o.state().State, o.dropped)
		}
		if c.state == registry.Decommissioned {
			o.refused(o.client.Approve(ctx, id, why), "is decommissioned", "devices transfer")
		}
	}
	o.must(o.client.Revoke(ctx, id, operator.Decision{By: "olga", Reason: "stolen"}))
	o.refused(o.client.Transfer(ctx, id, why), "was revoked", "--accept-revoked")
	o.refused(o.client.Decommission(ctx, id, why), "was revoked", "--accept-revoked")
}

func TestRevokedGatewayComesBackOnlyByAPersonsExplicitWord(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	o.must(o.store.SetState(ctx, id, registry.Active, "olga", "", time.Now()))
	o.must(o.store.AddCertificate(ctx, registry.Certificate{Serial: "1", Device: id, NotAfter: time.Now().Add(time.Hour), DER: []byte("x")}, ""))
	o.must(o.client.Revoke(ctx, id, operator.Decision{By: "olga", Reason: "stolen"}))
	word := operator.Decision{By: "bert", Reason: "it was the one beside it", AcceptEK: true, AcceptSoftware: true}
	o.refused(o.client.Approve(ctx, id, word), "was revoked", "--accept-revoked")
	word.AcceptRevoked, word.Reason = true, ""
	o.refused(o.client.Approve(ctx, id, word), "--reason")
	word.Reason, word.AcceptEK, o.vouched = "it was the one beside it", false, false
	o.refused(o.client.Approve(ctx, id, word), "--accept-ek")
	if o.state().State != registry.Revoked {
		t.Fatal("a refusal changed the state")
	}
	word.AcceptEK = true
	o.must(o.client.Approve(ctx, id, word))
	if d := o.state(); d.State != registry.Active || d.ApprovedBy != "bert" || string(d.AKPublic) != "ak" {
		t.Errorf("%+v", d)
	}
	if revoked, err := o.store.IsRevoked(ctx, "1"); err != nil || !revoked {
		t.Errorf("its certificate is good again: %v", err)
	}
	if sets, err := o.store.Firmware(ctx, "box"); err != nil || len(sets) != 0 {
		t.Errorf("%d firmware sets were approved with it, %v", len(sets), err)
	}
	entries, err := o.store.Audit(ctx, 0, 1)
	if err != nil || entries[0].By != "bert" || entries[0].Action != "state.active" || entries[0].Text != word.Reason {
		t.Errorf("audit %+v, %v", entries, err)
	}
	o.refused(o.client.Approve(ctx, id, word), "is active")
}

func TestTokensAreToldOnceAndEndedByName(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	_, err := o.client.NewToken(ctx, operator.NewToken{Seconds: 60})
	o.refused(err, "--by")
	_, err = o.client.NewToken(ctx, operator.NewToken{By: "olga"})
	o.refused(err, "--life")
	made, err := o.client.NewToken(ctx, operator.NewToken{By: "olga", Note: "site 4", Seconds: 1 << 62})
	o.must(err)
	if !strings.HasPrefix(made.Text, "gwt-"+made.ID+"-") || made.State != "unused" || time.Until(made.Expires) > 91*24*time.Hour {
		t.Errorf("made %+v", made)
	}
	list, err := o.client.Tokens(ctx)
	o.must(err)
	if len(list) != 1 || list[0].Text != "" || list[0].Note != "site 4" {
		t.Errorf("listed %+v", list)
	}
	o.refused(o.client.RevokeToken(ctx, made.ID, operator.Decision{}), "--by")
	o.must(o.client.RevokeToken(ctx, made.ID, operator.Decision{By: "olga", Reason: "lost"}))
	o.refused(o.client.RevokeToken(ctx, made.ID, operator.Decision{By: "olga"}), "no unused token")
	if list, err = o.client.Tokens(ctx); err != nil || list[0].State != "ended" {
		t.Errorf("listed %+v, %v", list, err)
	}
}

func TestAllowListTakesWhatNamesAnEKInItsOneForm(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	for value, e := range map[string]operator.Allowed{
		"--by": {Kind: "ek", Value: strings.Repeat("ab", 32)}, "SHA-256": {Kind: "ek", Value: "abc", By: "olga"},
		"hex": {Kind: "serial", Value: "xy", By: "olga"}, "ek, iak or serial": {Kind: "model", Value: "ab", By: "olga"},
	} {
		o.refused(o.client.Allow(ctx, e), value)
	}
	o.must(o.client.Allow(ctx, operator.Allowed{Kind: "ek", Value: strings.Repeat("AB", 32), By: "olga", Note: "lot 9"}))
	o.must(o.client.Allow(ctx, operator.Allowed{Kind: "serial", Value: "00:AB:0C", By: "olga"}))
	list, err := o.client.AllowList(ctx)
	o.must(err)
	if len(list) != 2 || list[0].Value != strings.Repeat("ab", 32) || list[1].Value != "ab0c" || list[0].Note != "lot 9" {
		t.Errorf("list %+v", list)
	}
	o.must(o.client.Disallow(ctx, operator.Allowed{Kind: "serial", Value: "ab0c", By: "olga"}))
	o.refused(o.client.Disallow(ctx, operator.Allowed{Kind: "serial", Value: "ab0c", By: "olga"}), "allow-list has no serial")
}

// TestFirmwareIsProposedWithItsShareAndApprovedByAPerson: what a set of gateways
// shows becomes good for their model, and only what they show.
func TestFirmwareIsProposedWithItsShareAndApprovedByAPerson(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	shown := attest.FirmwareSet{Measurements: []attest.Measurement{{PCR: 0, Event: 1, Type: "EV_S_CRTM_VERSION", Digest: attest.Digest{7}}}}
	body, err := json.Marshal(shown)
	o.must(err)
	o.must(o.store.SetState(ctx, id, registry.Active, "olga", "", time.Now()))
	o.must(o.store.AddVerdict(ctx, registry.Verdict{
		Device: id, At: time.Now(), Grade: "degraded", Firmware: &registry.Measured{Hash: shown.Hash(), Body: body, Text: "firmware is not approved: event 1"},
	}))
	list, err := o.client.Firmware(ctx)
	o.must(err)
	if len(list) != 1 || list[0].Model != "box" || list[0].Devices != 0 || list[0].Others != 1 || len(list[0].Measurements) != 1 || list[0].FirstDevice != id {
		t.Fatalf("proposals %+v", list)
	}
	decision := operator.FirmwareDecision{Model: "box", Hash: shown.Hash(), Name: "F.21", By: "olga"}
	for name, alter := range map[string]func(*operator.FirmwareDecision){
		"is missing": func(d *operator.FirmwareDecision) { d.By = "" },
		"a name":     func(d *operator.FirmwareDecision) { d.Name = "" },
		"no such":    func(d *operator.FirmwareDecision) { d.Hash = strings.Repeat("0", 64) },
		"firmware":   func(d *operator.FirmwareDecision) { d.Model = "rail" },
	} {
		wrong := decision
		alter(&wrong)
		o.refused(o.client.ApproveFirmware(ctx, wrong), name)
	}
	o.must(o.client.ApproveFirmware(ctx, decision))
	sets, err := o.store.Firmware(ctx, "box")
	o.must(err)
	var set attest.FirmwareSet
	if len(sets) != 1 || json.Unmarshal(sets[0], &set) != nil || set.Name != "F.21" || set.Hash() != shown.Hash() {
		t.Errorf("approved %s", sets)
	}
	audit, err := o.store.Audit(ctx, 0, 1)
	o.must(err)
	if audit[0].Action != "firmware.approve" || audit[0].By != "olga" {
		t.Errorf("audit %+v", audit)
	}
	if list, err := o.client.Firmware(ctx); err != nil || len(list) != 0 {
		t.Errorf("still proposed: %+v, %v", list, err)
	}
	o.refused(o.client.ApproveFirmware(ctx, decision), "no such firmware")
}

// TestApprovalOfAGatewayWithoutTPMIsAskedForByName: no word about an EK is about it.
func TestApprovalOfAGatewayWithoutTPMIsAskedForByName(t *testing.T) {
	o := newOffice(t)
	ctx := t.Context()
	const bare = "gw-cccccccccccccccc"
	_, _, err := o.store.Enroll(ctx, registry.Device{ID: bare, Model: "old box", SoftwareKeys: true, EKName: []byte{0xff, 0xff}, AKPublic: []byte("first"), Created: time.Now()})
	o.must(err)
	o.refused(o.client.Approve(ctx, bare, operator.Decision{By: "olga", AcceptEK: true}), "has no TPM", "--accept-software")
	o.refused(o.client.Approve(ctx, bare, operator.Decision{By: "olga", AcceptSoftware: true}), "has not attested yet")
	list, err := o.client.Devices(ctx, url.Values{"keys": {"software"}})
	if err != nil || len(list) != 1 || list[0].ID != bare || list[0].Keys != "software" {
		t.Errorf("those with software keys: %+v, %v", list, err)
	}
	if d, err := o.client.Device(ctx, id); err != nil || d.Keys != "tpm" {
		t.Errorf("the other: %+v, %v", d.Device, err)
	}
}
