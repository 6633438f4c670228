package web

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// updatesView is what a device runs, and what it did to get there.
type updatesView struct {
	Running, Slot pair
	List          []updateView
	Older         string
}

// updateView is one update, from its first message to its outcome.
type updateView struct {
	Key      string // element id
	From, To string // versions; To is "" if it is about no release
	Mark     mark
	Rule     string
	Text     prose
	Facts    string // what it cost, how long it took
	Began    moment
}

func viewUpdates(k record, now time.Time) updatesView {
	v := updatesView{Running: runningRelease(k.device, now), Slot: pair{Key: "Slot", Value: "not told"}}
	var h wire.Health
	var quoted attest.Claims
	switch {
	case json.Unmarshal(k.verdict.Claims, &quoted) == nil && quoted.Slot != "":
		v.Slot.Value, v.Slot.Note = plain(quoted.Slot), "as its last quote names it"
	case strictjson.Inform(k.health.Body, &h) == nil && h.Slot != "":
		v.Slot.Value, v.Slot.Note = plain(h.Slot), "as the gateway reports it"
	}
	for i, u := range k.updates {
		if i == updateRows {
			v.Older = "Older ones are left out."
			break
		}
		v.List = append(v.List, viewUpdate(u, now))
	}
	return v
}

// runningRelease is what the last verdict proved. What a device claims to have
// installed stands in the list.
func runningRelease(d registry.Device, now time.Time) pair {
	p := pair{Key: "Running release", Value: "not known", At: at(d.GradeAt, now)}
	switch {
	case d.Running != "":
		p.Value, p.Mark, p.Note = plain(d.Running), mark{Tone: toneOK, Icon: "ok"}, "attested"
	case d.GradeAt.IsZero():
		p.Note = "the gateway has not proven yet how it booted"
	default:
		p.Mark, p.Note = mark{Tone: toneWarn, Icon: "warn"}, "its boot matches no release whole, judged"
	}
	return p
}

func viewUpdate(u registry.UpdateRecord, now time.Time) updateView {
	v := updateView{
		Key: "u-" + plain(u.ID), From: plain(u.From), To: plain(u.Release), Mark: updateMark(u.Update),
		Rule: plain(u.Rule), Text: proseOf(u.Text), Began: at(u.Began, now),
	}
	if !v.Began.Known {
		v.Began = at(u.First, now)
	}
	var facts []string
	switch took := u.Ended.Sub(u.Began); {
	case u.Outcome == "":
		facts = append(facts, "last heard of "+at(u.Last, now).Ago)
	case !u.Ended.IsZero() && !u.Began.IsZero() && took > 0:
		facts = append(facts, "ended "+at(u.Ended, now).Clock+" after "+span(took))
	case !u.Ended.IsZero():
		facts = append(facts, "ended "+at(u.Ended, now).Clock)
	}
	if u.Chunks > 0 || u.Fetched > 0 {
		facts = append(facts, count(u.Chunks, "chunk")+", "+size(u.Fetched)+" fetched")
	}
	if u.Attempts > 0 {
		facts = append(facts, count(u.Attempts, "attempt"))
	}
	switch doubt := doubtWords(u.Proof); {
	case doubt != "":
		facts = append(facts, doubt)
	case u.Proof == registry.ProofQuoted:
		facts = append(facts, "confirmed by a quote")
	}
	v.Facts = strings.Join(facts, " · ")
	return v
}

// updateMark is the outcome, or how far it is.
func updateMark(u wire.Update) mark {
	switch {
	case u.Outcome == wire.UpdateInstalled && u.Pending:
		return mark{toneOK, "wait", "Installed, verdict pending"}
	case u.Outcome == wire.UpdateInstalled:
		return mark{toneOK, "ok", "Installed"}
	case u.Outcome == wire.UpdateFailed:
		return mark{toneBad, "bad", "Failed"}
	case u.Outcome == wire.UpdateRefused:
		return mark{toneWarn, "stop", "Refused"}
	case u.Outcome == wire.UpdateRolledBack:
		return mark{toneWarn, "back", "Rolled back"}
	case u.Outcome != "":
		return mark{toneWarn, "warn", "Outcome unknown"}
	}
	return mark{toneIdle, "wait", "Under way: " + stateWords(u.State)}
}

// stateWords says what the update engine does in a state.
func stateWords(state string) string {
	switch state {
	case "installing":
		return "fetching it into the spare slot"
	case "trying":
		return "starting it on trial"
	case "confirming":
		return "running it on trial"
	case "rolling-back":
		return "going back to the release before"
	}
	return plain(state)
}

// updateNote is what a list says of a device's last update, if anything.
func updateNote(d registry.Device) mark {
	switch {
	case d.UpdateTo == "":
	case d.UpdateOutcome == "":
		return mark{toneIdle, "wait", "Updating to " + plain(d.UpdateTo)}
	case d.UpdateOutcome == wire.UpdateRolledBack:
		return mark{toneWarn, "back", plain(d.UpdateTo) + " rolled back"}
	}
	return mark{}
}

// size is n bytes in the largest binary unit.
func size(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n)/1024, 0
	for f >= 1023.95 && unit < len("KMGTPE")-1 {
		f /= 1024
		unit++
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + "KMGTPE"[unit:unit+1] + "iB"
}
