package web

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// mark is a judgement as people see it: never a colour alone, always with an
// icon and a word. Tone is a class of app.css, Icon a symbol of layout.html.
type mark struct{ Tone, Icon, Word string }

const (
	toneOK   = "t-ok"
	toneWarn = "t-warn"
	toneBad  = "t-bad"
	toneIdle = "t-idle"
)

func gradeMark(grade string) mark {
	switch attest.Grade(grade) {
	case attest.Trusted:
		return mark{toneOK, "ok", "Trusted"}
	case attest.Degraded:
		return mark{toneWarn, "warn", "Degraded"}
	case attest.Untrusted:
		return mark{toneBad, "bad", "Untrusted"}
	}
	return mark{toneIdle, "idle", "Not judged"}
}

func stateMark(state string) mark {
	switch state {
	case registry.Pending:
		return mark{toneWarn, "wait", "Pending"}
	case registry.Active:
		return mark{"", "", "Active"}
	case registry.Quarantined:
		return mark{toneBad, "bad", "Quarantined"}
	case registry.Revoked:
		return mark{toneIdle, "stop", "Revoked"}
	case registry.Decommissioned:
		return mark{toneIdle, "stop", "Decommissioned"}
	}
	return mark{toneIdle, "idle", plain(state)}
}

func severityMark(severity string) mark {
	switch severity {
	case registry.Info:
		return mark{toneIdle, "info", "Info"}
	case registry.Warning:
		return mark{toneWarn, "warn", "Warning"}
	}
	return mark{toneBad, "bad", "Alarm"}
}

func healthMark(status string) mark {
	switch status {
	case "ok":
		return mark{toneOK, "ok", "ok"}
	case "warning":
		return mark{toneWarn, "warn", "warning"}
	case "critical":
		return mark{toneBad, "bad", "critical"}
	}
	return mark{toneIdle, "idle", "unknown"}
}

func outcomeMark(outcome string) mark {
	switch outcome {
	case wire.OutcomeDone:
		return mark{toneOK, "ok", "Done"}
	case wire.OutcomeFailed:
		return mark{toneBad, "bad", "Failed"}
	case wire.OutcomeRefused:
		return mark{toneWarn, "stop", "Refused"}
	}
	return mark{toneWarn, "warn", "Outcome unknown"}
}

// doubtWords says what a gateway's word is worth that came by way of a broker.
func doubtWords(proof string) string {
	switch proof {
	case registry.ProofClaimed:
		return "not confirmed by a quote yet"
	case registry.ProofStray:
		return "not in the audit log that the TPM quoted: forged on the way, or of a log that was damaged since"
	}
	return ""
}

// standingMark says what the TPM's last quote makes of the newest health report.
func standingMark(s verifier.Standing) mark {
	switch s {
	case verifier.Confirmed:
		return mark{toneOK, "ok", "Confirmed by the TPM's last quote."}
	case verifier.Doubtful:
		return mark{toneBad, "bad", "The TPM's last quote names another report: this one was forged or overtaken, and counts for nothing."}
	}
	return mark{toneIdle, "wait", "Not confirmed by a quote yet."}
}

// gateWords says what a verdict means for the certificate.
func gateWords(gate string) string {
	switch wire.Gate(gate) {
	case wire.GateFull:
		return "It may hold a certificate of full life."
	case wire.GateShort:
		return "It may hold a certificate of short life only."
	case wire.GateQuarantine:
		return "It may hold a quarantine certificate only: enough to prove itself again, to renew and to be commanded."
	case wire.GateRevoked:
		return "It gets no certificate."
	}
	return ""
}

// plain makes text that a device chose harmless to read: no control characters
// and none that reorder or hide what stands beside them, at most wire.MaxText.
func plain(text string) string {
	cut := len(text) > wire.MaxText
	if cut {
		end := wire.MaxText
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp):
			return '\uFFFD'
		}
		return r
	}, text)
	if cut {
		text += " …"
	}
	return text
}

// prose is text with words between back quotes set apart: what a verifier quotes
// from a machine (a command line) must not be read as its own words.
type prose []run

type run struct {
	Code bool
	Text string
}

// proseOf keeps a back quote that has no partner.
func proseOf(text string) prose {
	var out prose
	for text = plain(text); text != ""; {
		before, rest, found := strings.Cut(text, "`")
		quoted, after, closed := strings.Cut(rest, "`")
		if !found || !closed {
			return append(out, run{Text: text})
		}
		if before != "" {
			out = append(out, run{Text: before})
		}
		out = append(out, run{Code: true, Text: quoted})
		text = after
	}
	return out
}

// count is n of noun, which forms its plural with an s.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
