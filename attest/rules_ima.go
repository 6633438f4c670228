package attest

import (
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// imaPart is what evidence brings of an IMA list.
type imaPart struct {
	from  *IMAState // what came before it
	bytes []byte
	more  bool      // the list goes on behind it
	sum   hash.Hash // SHA-256 of the list with bytes
}

// openIMA wants a list from its begin, or from where the last appraisal read it, that
// is what the device said it is. A long one may come in parts. It is nil if the
// machine has none.
func openIMA(l *Log, e *Expect) (*imaPart, error) {
	if l.Digest.IsZero() && l.Offset == 0 && len(l.Bytes) == 0 {
		return nil, nil
	}
	part := &imaPart{from: new(IMAState), bytes: l.Bytes}
	if l.Offset != 0 {
		var held *IMAState
		if e.Last != nil {
			held = e.Last.IMA
		}
		if size, _, ok := held.Held(e.Policy); !ok || size != l.Offset {
			return nil, refuse("log", "the IMA list begins at byte %d, where nothing is held: send it whole unless the challenge names a size", l.Offset)
		}
		part.from = held
	}
	if len(l.Bytes) > maxIMALog {
		return nil, refuse("log", "the IMA list has %d bytes, at most %d are allowed", len(l.Bytes), maxIMALog)
	}
	part.sum = part.from.hash()
	part.sum.Write(l.Bytes)
	if Digest(part.sum.Sum(nil)) != l.Digest {
		if len(l.Bytes) < minIMAPart {
			return nil, refuse("log", "the IMA list is not the one that its digest names")
		}
		part.more = true
	}
	return part, nil
}

// replayIMA holds the list against PCR 10. One that comes in parts must go on until
// it is whole, but for a reset: else it would never be judged.
func (a *appraisal) replayIMA(part *imaPart) {
	if part == nil {
		return
	}
	want := imaTarget{quoted: a.pcrs[imaPCR], pcrs: a.pcrs, more: part.more, sum: part.sum}
	if files := a.expect.Policy.files; files != nil {
		want.reference, want.judge = files.short(), files.judge
	}
	facts, state, err := part.from.replay(part.bytes, want)
	last := a.expect.Last
	switch {
	case err != nil || last == nil || last.IMA == nil:
	case part.from == last.IMA:
		facts.nameAlso(last.Files)
	case state.pending && last.IMA.pending && last.Clock.ResetCount == a.clock.ResetCount:
		state, err = nil, errors.New("it begins anew although a part of it was sent")
	}
	a.facts.IMA, a.imaState, a.imaErr = &facts, state, err
}

// nameAlso names files of earlier parts of the list before those of this one.
func (f *IMAFacts) nameAlso(earlier []IMAFile) {
	now := f.First
	f.First = slices.Clone(earlier)
	for _, file := range now {
		if len(f.breaking(file.Rule)) < maxUnlisted {
			f.First = append(f.First, file)
		}
	}
}

// breaking are the files that are named for a rule.
func (f *IMAFacts) breaking(rule string) []IMAFile {
	var out []IMAFile
	for _, file := range f.First {
		if file.Rule == rule {
			out = append(out, file)
		}
	}
	return out
}

const untried = "IMA: not tried, the record has no list"

func checkIMA(a *appraisal) (bool, string) {
	f := a.facts.IMA
	switch {
	case f == nil && a.expect.Policy.IMA != nil && a.expect.filesUntried:
		return true, untried
	case f == nil && a.expect.Policy.IMA != nil:
		return false, "IMA: no list was given"
	case f == nil:
		return true, "IMA: no list was given; PCR 10 is quoted, not judged"
	case errors.Is(a.imaErr, ErrIMAAhead):
		return false, fmt.Sprintf("IMA list is not what the TPM saw: no prefix of its %d entries gives PCR 10, %s", f.Entries, a.pcrs[imaPCR].short())
	case a.imaErr != nil:
		return false, "IMA list: " + clean(a.imaErr.Error())
	case f.Foreign:
		return false, "IMA list is of another boot: its boot_aggregate is not that of the quoted PCRs 0 to 9"
	case f.Pending:
		return true, fmt.Sprintf("IMA list: %d entries of it were sent, and not judged before the rest is", f.Entries)
	}
	return true, fmt.Sprintf("IMA list replays to PCR 10: %d entries, %d ahead of the quote, %d violations", f.Entries, f.Ahead, f.Violations)
}

// checkIMAFiles fails, too, where it is unknown which files were run: else the rule
// could be dodged by a false list, or none.
func checkIMAFiles(a *appraisal) (bool, string) {
	f := a.facts.IMA
	switch {
	case a.expect.Policy.IMA == nil:
		return true, "IMA: the policy lists no files"
	case f == nil && a.expect.filesUntried:
		return true, untried
	case f == nil || a.imaErr != nil || f.Foreign:
		return false, "IMA: which files were run is unknown"
	case f.Unlisted > 0:
		return false, "IMA: " + brokenBy(f, ruleIMAFiles, f.Unlisted, "one file without leave", "files without leave")
	}
	return true, "IMA: all files are listed or signed"
}

func checkIMASignatures(a *appraisal) (bool, string) {
	if f := a.facts.IMA; f != nil && f.BadSignatures > 0 {
		return false, "IMA: " + brokenBy(f, ruleIMASignatures, f.BadSignatures, "one file with a bad signature", "files with bad signatures")
	}
	return true, "IMA: no bad signature"
}

func checkIMAViolations(a *appraisal) (bool, string) {
	f := a.facts.IMA
	if a.expect.Policy.IMA == nil || f == nil || f.Violations == 0 {
		return true, "IMA: no violation"
	}
	return false, "IMA: " + brokenBy(f, ruleIMAViolations, f.Violations, "one file was written while it was measured", "files were written while they were measured")
}

// brokenBy counts and names the files that break a rule.
func brokenBy(f *IMAFacts, rule string, count uint64, one, many string) string {
	text := fmt.Sprintf("%d %s", count, many)
	if count == 1 {
		text = one
	}
	var names []string
	for _, file := range f.breaking(rule) {
		name := fmt.Sprintf("%s (entry %d, PCR 10", file.Path, file.Entry)
		if file.Why != "" {
			name += ", " + file.Why
		}
		names = append(names, name+")")
	}
	if len(names) > 0 {
		text += ": " + strings.Join(names, ", ")
	}
	return text
}
