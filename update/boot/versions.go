package boot

import (
	"cmp"
	"strings"
)

const (
	digits  = "0123456789"
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// compareVersions orders versions as systemd-boot does ("systemd-analyze
// compare-versions", UAPI.10 Version Format): it is below 0 if a is the older one.
func compareVersions(a, b string) int {
	if a == "" || b == "" {
		return strings.Compare(a, b)
	}
	for {
		a, b = strings.TrimLeftFunc(a, noVersion), strings.TrimLeftFunc(b, noVersion)
		if c := separator(&a, &b, "~"); c != 0 { // a pre-release comes before all else
			return c
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		for _, mark := range []string{"-", "^", "."} {
			if c := separator(&a, &b, mark); c != 0 {
				return c
			}
		}
		if c := segment(&a, &b); c != 0 {
			return c
		}
	}
}

func noVersion(r rune) bool { return !strings.ContainsRune(digits+letters+"~-^.", r) }

// separator cuts mark off both; the one that alone has it is older.
func separator(a, b *string, mark string) int {
	restA, hasA := strings.CutPrefix(*a, mark)
	restB, hasB := strings.CutPrefix(*b, mark)
	*a, *b = restA, restB
	switch {
	case hasA == hasB:
		return 0
	case hasA:
		return -1
	}
	return 1
}

// segment cuts a number, or a word, off both and compares them. A number is newer
// than a word.
func segment(a, b *string) int {
	x, y := cut(a, digits), cut(b, digits)
	if x == "" && y == "" {
		return strings.Compare(cut(a, letters), cut(b, letters))
	}
	if x == "" || y == "" {
		return cmp.Compare(len(x), len(y))
	}
	x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
	return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y))
}

// cut takes what is of set off the beginning of s.
func cut(s *string, set string) string {
	rest := strings.TrimLeft(*s, set)
	taken := (*s)[:len(*s)-len(rest)]
	*s = rest
	return taken
}
