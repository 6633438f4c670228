package attest

import (
	"fmt"
	"strings"
)

func checkEventLog(a *appraisal) (bool, string) {
	if a.log == nil {
		return false, "event log: " + a.logError
	}
	return true, fmt.Sprintf("event log of %d events", len(a.log.Events))
}

// replayed lists the PCRs that the firmware's log alone accounts for: PCR 10 is
// the IMA list's, PCR 11 is followed by boot phases.
func replayed() []int { return []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14} }

func checkReplay(a *appraisal) (bool, string) {
	if a.log == nil {
		return false, "nothing accounts for the quoted PCRs: there is no event log to replay"
	}
	var wrong []string
	for _, pcr := range replayed() {
		if !a.holds[pcr] {
			wrong = append(wrong, a.blame(pcr))
		}
	}
	if len(wrong) > 0 {
		return false, "the event log is not what the TPM saw: " + strings.Join(wrong, "; ")
	}
	return true, "event log replays to the quoted PCRs"
}

// blame says what in the log of one PCR is false, as exactly as can be proven.
func (a *appraisal) blame(pcr int) string {
	quoted := a.pcrs[pcr]
	head := fmt.Sprintf("PCR %d is %s, the log gives %s", pcr, quoted.short(), a.logged(pcr).short())
	events := a.log.eventsOf(pcr)
	if len(events) == 0 {
		return head + " (it has no event of that PCR)"
	}
	for _, e := range events {
		if !e.consistent() {
			return fmt.Sprintf("%s; event %d (%s) is not what its digest says", head, e.Index, e.Type)
		}
	}
	if text := a.blameKnown(pcr, events); text != "" {
		return head + "; " + text
	}
	if text := a.blameOne(pcr, events); text != "" {
		return head + "; " + text
	}
	return fmt.Sprintf("%s; one of events %d to %d is false or missing", head, events[0].Index, events[len(events)-1].Index)
}

// blameOne finds an event that was added to a true log: at its end, or anywhere.
func (a *appraisal) blameOne(pcr int, events []*LogEvent) string {
	quoted, value := a.pcrs[pcr], a.log.initial(pcr)
	for i, e := range events {
		if value == quoted {
			return fmt.Sprintf("the TPM saw none from event %d (%s) on", e.Index, e.Type)
		}
		if len(events) <= maxBlame {
			rest := value
			for _, later := range events[i+1:] {
				rest = Extend(rest, later.Digest)
			}
			if rest == quoted {
				return fmt.Sprintf("the TPM never saw event %d (%s)", e.Index, e.Type)
			}
		}
		value = Extend(value, e.Digest)
	}
	return ""
}

// blameKnown compares firmware events with measurements that are known to be good
// and, if these give the quoted value, names the event that was altered.
func (a *appraisal) blameKnown(pcr int, events []*LogEvent) string {
	for _, known := range a.knownFirmware() {
		value, at := a.log.initial(pcr), 0
		text := ""
		for _, m := range known.Measurements {
			if m.PCR != pcr {
				continue
			}
			value = Extend(value, m.Digest)
			if text == "" && (at >= len(events) || events[at].Digest != m.Digest) {
				text = fmt.Sprintf("event %d is missing (%s)", m.Event, m.Type)
				if at < len(events) {
					e := events[at]
					text = fmt.Sprintf("event %d (%s) was altered: the TPM saw %s as in %s, the log says %s",
						e.Index, e.Type, m.Digest.short(), known.Name, e.Digest.short())
				}
			}
			at++
		}
		if value == a.pcrs[pcr] && text != "" {
			return text
		}
	}
	return ""
}

// knownFirmware are the approved sets, then that of the last trusted boot.
func (a *appraisal) knownFirmware() []FirmwareSet {
	known := a.expect.Firmware
	if last := a.expect.Last; last != nil && last.Trusted != nil {
		known = append(known[:len(known):len(known)], last.Trusted.FirmwareSet("the last trusted boot"))
	}
	return known
}

// consistent is false if the event holds the very bytes that its digest should be
// over, by its type, and is not (Platform Firmware Profile, section 10.4.1).
// Firmware is not always exact there: this explains a failure, it causes none.
func (e *LogEvent) consistent() bool {
	switch e.Type {
	case evSeparator, evEFIAction, evVariableDriver, evSCRTMVersion:
		return e.covers(e.Data)
	}
	return true
}

func (l *EventLog) eventsOf(pcr int) []*LogEvent {
	var events []*LogEvent
	for i := range l.Events {
		if e := &l.Events[i]; e.PCR == pcr && e.Extends() {
			events = append(events, e)
		}
	}
	return events
}

// logged is the value of a PCR by the log alone.
func (a *appraisal) logged(pcr int) Digest {
	if value, ok := a.replay[pcr]; ok {
		return value
	}
	return a.log.initial(pcr)
}

func checkBootPhases(a *appraisal) (bool, string) {
	switch {
	case a.log == nil:
		return false, "boot phases are unknown: there is no event log"
	case !a.holds[11]:
		return false, fmt.Sprintf("PCR 11 is %s: neither the log's value %s nor that followed by known boot phases; something else was extended",
			a.pcrs[11].short(), a.logged(11).short())
	case a.release != nil && !a.release.allowsPhases(a.facts.Phases):
		return false, fmt.Sprintf("boot phases %s, PCR 11; %s has no such path", strings.Join(a.facts.Phases, ", "), a.release.Name())
	case len(a.facts.Phases) == 0:
		return true, "no boot phase passed yet"
	}
	return true, "boot phases passed: " + strings.Join(a.facts.Phases, ", ")
}
