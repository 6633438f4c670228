package release

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is MAJOR.MINOR.PATCH with an optional -PRERELEASE, ordered as Semantic
// Versioning 2.0.0, section 11, orders them. Two that are equal are written
// alike: leading zeros and build metadata (+...), which have no order, are refused.
type Version struct {
	numbers    [3]uint64
	prerelease []string
}

const maxDigits = 18 // of one number: it fits an uint64

// ParseVersion reads a Version.
func ParseVersion(s string) (Version, error) {
	var v Version
	if len(s) > MaxVersion {
		return v, fmt.Errorf("version has %d bytes, at most %d are allowed", len(s), MaxVersion)
	}
	core, pre, hasPre := strings.Cut(s, "-")
	parts := strings.Split(core, ".")
	if len(parts) != len(v.numbers) {
		return Version{}, fmt.Errorf("version %q does not begin with three numbers, as in 1.4.2", s)
	}
	for i, part := range parts {
		if !numeric(part) {
			return Version{}, fmt.Errorf("version %q: %q is no number without leading zeros", s, part)
		}
		n, err := strconv.ParseUint(part, 10, 64)
		if err != nil {
			return Version{}, fmt.Errorf("version %q: %w", s, err)
		}
		v.numbers[i] = n
	}
	if !hasPre {
		return v, nil
	}
	v.prerelease = strings.Split(pre, ".")
	for _, id := range v.prerelease {
		if id == "" || strings.Trim(id, lower+strings.ToUpper(lower)+digit+"-") != "" || allDigits(id) && !numeric(id) {
			return Version{}, fmt.Errorf("version %q: %q is no pre-release name", s, id)
		}
	}
	return v, nil
}

func allDigits(s string) bool { return strings.Trim(s, digit) == "" }

// numeric accepts a number that has one spelling.
func numeric(s string) bool {
	return s != "" && allDigits(s) && len(s) <= maxDigits && (s == "0" || s[0] != '0')
}

// String is what ParseVersion read.
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.numbers[0], v.numbers[1], v.numbers[2])
	if len(v.prerelease) > 0 {
		s += "-" + strings.Join(v.prerelease, ".")
	}
	return s
}

// Compare returns -1 if v is older than w, 1 if it is newer, 0 if they are equal.
func (v Version) Compare(w Version) int {
	for i := range v.numbers {
		if c := cmp.Compare(v.numbers[i], w.numbers[i]); c != 0 {
			return c
		}
	}
	// A pre-release comes before its release.
	if len(v.prerelease) == 0 || len(w.prerelease) == 0 {
		return cmp.Compare(len(w.prerelease), len(v.prerelease))
	}
	for i := range min(len(v.prerelease), len(w.prerelease)) {
		if c := compareID(v.prerelease[i], w.prerelease[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(v.prerelease), len(w.prerelease))
}

// compareID: numbers by value and below names, names by bytes.
func compareID(a, b string) int {
	aNumber, bNumber := allDigits(a), allDigits(b)
	switch {
	case aNumber && bNumber: // without leading zeros the longer one is larger
		if c := cmp.Compare(len(a), len(b)); c != 0 {
			return c
		}
	case aNumber:
		return -1
	case bNumber:
		return 1
	}
	return strings.Compare(a, b)
}
