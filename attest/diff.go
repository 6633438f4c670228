package attest

import (
	"fmt"
	"slices"
	"strings"
)

// Diff says what changed from one boot to another, in words, by component.
// It is empty if nothing did. A component is left out where the PCRs that it is
// measured into are not accounted for in both boots.
func Diff(before, after *Facts) []string {
	if before == nil || after == nil {
		return nil
	}
	components := []struct {
		pcrs []int
		diff func(before, after *Facts) []string
	}{
		{[]int{0, 2}, diffFirmware},
		{[]int{7}, diffSecureBoot},
		{[]int{1}, diffBootVariables},
		{[]int{4}, diffApplications},
		{[]int{8, 12}, diffCommandLine},
		{[]int{11}, diffSections},
		{[]int{8, 9}, diffGRUB},
		{[]int{14}, diffMOK},
		{[]int{5}, diffDisks},
	}
	var out []string
	if after.Release != "" {
		out = diffText("release", before.Release, after.Release)
	}
	for _, c := range components {
		if before.accounts(c.pcrs...) && after.accounts(c.pcrs...) {
			out = append(out, c.diff(before, after)...)
		}
	}
	return out
}

func diffText(what, was, is string) []string {
	if was == is {
		return nil
	}
	return []string{fmt.Sprintf("%s: `%s` became `%s`", what, clean(was), clean(is))}
}

func diffSecureBoot(before, after *Facts) []string {
	out := diffText("Secure Boot", before.SecureBoot, after.SecureBoot)
	out = append(out, diffVariables("Secure Boot variable", before.Keys, after.Keys)...)
	out = append(out, diffVariables("image verified by", before.Authorities, after.Authorities)...)
	if before.Shim != nil && after.Shim != nil {
		out = append(out, diffText("shim's validation", before.Shim.Validation, after.Shim.Validation)...)
	}
	return append(out, diffText("firmware signals", strings.Join(before.Signals, ", "), strings.Join(after.Signals, ", "))...)
}

// diffMOK compares what the owner of the machine trusts, as shim measured it.
func diffMOK(before, after *Facts) (out []string) {
	for _, list := range after.MOK {
		if !slices.ContainsFunc(before.MOK, func(l Loaded) bool { return l.Digest == list.Digest }) {
			out = append(out, fmt.Sprintf("keys of the machine's owner (MOK)%s changed, PCR 14, event %d", describedAs(list.Described), list.Event))
		}
	}
	return out
}

func diffDisks(before, after *Facts) (out []string) {
	same := func(a, b PartitionTable) bool { return a.Disk == b.Disk && slices.Equal(a.Partitions, b.Partitions) }
	for _, disk := range after.Disks {
		if disk.Doubt == "" && !slices.ContainsFunc(before.Disks, func(d PartitionTable) bool { return same(d, disk) }) {
			out = append(out, fmt.Sprintf("partition table of disk %s is another, PCR 5, event %d", orUnknown(disk.Disk), disk.Event))
		}
	}
	return out
}

func diffBootVariables(before, after *Facts) []string {
	return diffVariables("boot variable", before.BootVariables, after.BootVariables)
}

func diffFirmware(before, after *Facts) []string {
	out := diffText("firmware version", before.FirmwareVersion, after.FirmwareVersion)
	if text, _ := differs(after.Firmware, before.FirmwareSet("the last trusted boot")); text != "" {
		out = append(out, "firmware: "+text)
	}
	return out
}

func diffVariables(what string, before, after []Variable) []string {
	if slices.EqualFunc(before, after, func(x, y Variable) bool { return x.Name == y.Name && x.Digest == y.Digest }) {
		return nil
	}
	var out []string
	old := make(map[string][]Digest)
	for _, v := range before {
		old[v.Name] = append(old[v.Name], v.Digest)
	}
	seen := make(map[string]bool)
	for _, v := range after {
		seen[v.Name] = true
		switch digests, ok := old[v.Name]; {
		case !ok:
			out = append(out, fmt.Sprintf("%s %s is new%s, PCR %d, event %d", what, clean(v.Name), v.doubtText(), v.PCR, v.Event))
		case !slices.Contains(digests, v.Digest):
			out = append(out, fmt.Sprintf("%s %s changed%s, PCR %d, event %d", what, clean(v.Name), v.doubtText(), v.PCR, v.Event))
		}
	}
	for _, v := range before {
		if !seen[v.Name] {
			seen[v.Name] = true
			out = append(out, fmt.Sprintf("%s %s is gone", what, clean(v.Name)))
		}
	}
	return out
}

func (v *Variable) doubtText() string {
	if v.Doubt == "" {
		return ""
	}
	return " (" + v.Doubt + ")"
}

func diffApplications(before, after *Facts) []string {
	old := make(map[Digest]bool)
	for _, app := range before.Applications {
		old[app.Digest] = true
	}
	var out []string
	for _, app := range after.Applications {
		if !old[app.Digest] {
			out = append(out, fmt.Sprintf("boot application %s%s is new, PCR 4, event %d", app.Digest.short(), describedAs(app.Described), app.Event))
		}
	}
	return out
}

func diffCommandLine(before, after *Facts) []string {
	old := make(map[string]bool)
	texts := make([]string, 0, len(before.CommandLines))
	for _, line := range before.CommandLines {
		old[line.Text] = true
		texts = append(texts, line.Text)
	}
	var out []string
	for _, line := range after.CommandLines {
		if old[line.Text] {
			continue
		}
		old[line.Text] = true
		was, is := changedWords(nearest(texts, line.Text), line.Text)
		out = append(out, fmt.Sprintf("kernel command line: `%s` became `%s`, PCR %d, event %d", clean(was), clean(is), line.PCR, line.Event))
	}
	return out
}

func diffSections(before, after *Facts) []string {
	old := make(map[string]Digest)
	for _, s := range before.Sections {
		old[s.Name] = s.Digest
	}
	var out []string
	for _, s := range after.Sections {
		switch digest, ok := old[s.Name]; {
		case !ok:
			out = append(out, fmt.Sprintf("UKI section %s is new, PCR 11, event %d", s.Name, s.Event))
		case digest != s.Digest:
			out = append(out, fmt.Sprintf("UKI section %s changed, PCR 11, event %d", s.Name, s.Event))
		}
		delete(old, s.Name)
	}
	for _, s := range before.Sections {
		if _, left := old[s.Name]; left {
			out = append(out, fmt.Sprintf("UKI section %s is gone", s.Name))
		}
	}
	return out
}

// changedWords cuts what two lines have in common at both ends, word by word, but
// leaves one word before a mere insertion, so that it has a place.
func changedWords(before, after string) (was, is string) {
	a, b := strings.Split(before, " "), strings.Split(after, " ")
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	if head > 0 && (head+tail == len(a) || head+tail == len(b)) {
		head--
	}
	return strings.Join(a[head:len(a)-tail], " "), strings.Join(b[head:len(b)-tail], " ")
}

// nearest returns the line that shares most words with text.
func nearest(lines []string, text string) string {
	words := make(map[string]bool)
	for word := range strings.SplitSeq(text, " ") {
		words[word] = true
	}
	best, most := "", -1
	for _, line := range lines {
		same := 0
		for word := range strings.SplitSeq(line, " ") {
			if words[word] {
				same++
			}
		}
		if same > most {
			best, most = line, same
		}
	}
	return best
}
