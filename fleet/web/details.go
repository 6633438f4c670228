package web

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// commandView is one envelope and what became of it.
type commandView struct {
	Key                       string // element id
	ID, Verb, Reason, Signers string
	Mark                      mark
	At                        moment
	Receipts                  []receiptView
}

type receiptView struct {
	Mark mark
	Rule string
	Text prose
}

func viewCommand(c registry.CommandRecord, now time.Time) commandView {
	v := commandView{
		Key: "m" + plain(c.Hash), ID: plain(c.ID), Verb: plain(c.Verb), Reason: plain(c.Reason),
		Signers: plain(strings.Join(c.Signers, ", ")), At: at(c.Created, now), Mark: mark{toneIdle, "wait", "waiting for the gateway"},
	}
	if v.Verb == "" {
		v.Verb = "unreadable command"
	}
	if len(c.Receipts) > receiptRows {
		c.Receipts = c.Receipts[len(c.Receipts)-receiptRows:]
	}
	for _, r := range c.Receipts {
		v.Receipts = append(v.Receipts, receiptView{outcomeMark(r.Outcome), plain(r.Rule), proseOf(r.Text)})
	}
	switch {
	case len(v.Receipts) > 0: // the receipts say it, word for word
		v.Mark = v.Receipts[0].Mark
		v.Mark.Word = ""
	case !c.Expires.IsZero() && !now.Before(c.Expires):
		v.Mark = mark{toneIdle, "idle", "expired before the gateway answered"}
	}
	return v
}

// healthView is the last health message.
type healthView struct {
	Findings []findingView
	Standing mark   // whether it is the gateway's word at all
	Note     string // when it came, and what else is to say
}

type findingView struct {
	Check, Summary string
	Mark           mark
	Since          moment
}

func viewHealth(m registry.Message, last registry.Verdict, now time.Time) healthView {
	if m.Received.IsZero() {
		return healthView{Note: "No health message has arrived yet."}
	}
	var h wire.Health
	if err := strictjson.Inform(m.Body, &h); err != nil || h.Version != 1 {
		return healthView{Note: "The last health message can't be read; the gateway may run a newer agent than this server knows."}
	}
	v := healthView{Note: "Reported " + at(m.Received, now).Ago + ".", Standing: standingMark(verifier.StandingOf(m, last))}
	if !h.TimeTrust {
		v.Note += " It has no trustworthy time since it booted."
	}
	if h.Dropped > 0 {
		v.Note += " Its outbox was full and lost " + strconv.FormatUint(h.Dropped, 10) + " messages."
	}
	for i, f := range h.Findings {
		if i == findingRows {
			break
		}
		v.Findings = append(v.Findings, findingView{plain(f.Check), plain(f.Summary), healthMark(f.Status), at(f.Since, now)})
	}
	slices.SortStableFunc(v.Findings, func(a, b findingView) int { return weight(a.Mark) - weight(b.Mark) })
	return v
}

// weight orders what an operator has to look at first.
func weight(m mark) int { return slices.Index([]string{toneBad, toneWarn, toneIdle, toneOK}, m.Tone) }

// pair is a line of a card.
type pair struct {
	Key, Value string
	Mono       bool
	Mark       mark
	Note       string // behind the value
	At         moment
}

func viewIdentity(d registry.Device, now time.Time) []pair {
	if d.SoftwareKeys {
		return enrolledAt([]pair{
			{Key: "TPM", Value: "none: software keys", Mark: mark{Tone: toneWarn, Icon: "warn"}, Note: "nothing proves what it booted, or that its keys are not copied"},
			{Key: "First key", Value: orDash(hex.EncodeToString(d.EKName)), Mono: true},
		}, d, now)
	}
	ek := pair{Key: "TPM", Value: "maker's certificate verified", Mark: mark{Tone: toneOK, Icon: "ok"}}
	switch {
	case !d.EKVerified && d.Machine != "":
		ek.Value = "machine maker's attestation key verified"
	case !d.EKVerified && len(d.EKCertificate) > 0:
		ek.Value, ek.Mark = "EK certificate is by no known maker", mark{Tone: toneWarn, Icon: "warn"}
	case !d.EKVerified:
		ek.Value, ek.Mark = "chip has no EK certificate", mark{Tone: toneWarn, Icon: "warn"}
	}
	out := []pair{ek}
	if c, err := x509.ParseCertificate(d.EKCertificate); err == nil {
		out = append(out, pair{Key: "EK issued by", Value: plain(c.Issuer.String())})
	}
	out = append(out, pair{Key: "EK name", Value: orDash(hex.EncodeToString(d.EKName)), Mono: true},
		pair{Key: "AK name", Value: orDash(tpmName(d.AKPublic)), Mono: true})
	return enrolledAt(out, d, now)
}

func enrolledAt(out []pair, d registry.Device, now time.Time) []pair {
	out = append(out, pair{Key: "Enrolled", At: at(d.Created, now)})
	if !d.ApprovedAt.IsZero() {
		out = append(out, pair{Key: "Approved", Value: "by " + plain(d.ApprovedBy) + ",", At: at(d.ApprovedAt, now)})
	}
	return out
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// tpmName is the Name of a TPMT_PUBLIC (TPM 2.0 part 1, section 16): the
// algorithm's number and the digest. Only SHA-256 keys are in use.
func tpmName(public []byte) string {
	const sha256Alg = 0x000b
	if len(public) < 4 || binary.BigEndian.Uint16(public[2:4]) != sha256Alg {
		return ""
	}
	sum := sha256.Sum256(public)
	return "000b" + hex.EncodeToString(sum[:])
}

// firmwareView is one approved set of firmware values.
type firmwareView struct {
	Key, Name, Count string
	Measurements     []measurementView
}

type measurementView struct{ PCR, Type, Text, Digest string }

func viewFirmware(sets []json.RawMessage) []firmwareView {
	if len(sets) > firmwareRows {
		sets = sets[len(sets)-firmwareRows:]
	}
	var out []firmwareView
	for i, raw := range sets {
		var set attest.FirmwareSet
		if err := json.Unmarshal(raw, &set); err != nil {
			out = append(out, firmwareView{Key: "f" + strconv.Itoa(i), Name: "unreadable set", Count: "it counts for nothing"})
			continue
		}
		v := firmwareView{Key: "f" + strconv.Itoa(i), Name: plain(set.Name), Count: count(len(set.Measurements), "measurement")}
		for j, m := range set.Measurements {
			if j == measureRows {
				break
			}
			v.Measurements = append(v.Measurements, measurementView{strconv.Itoa(m.PCR), plain(m.Type), plain(m.Text), hex.EncodeToString(m.Digest[:])})
		}
		out = append(out, v)
	}
	return out
}
