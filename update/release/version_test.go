package release

import "testing"

// In ascending order; the pre-releases are the example of Semantic Versioning
// 2.0.0, section 11.
func ascending() []string {
	return []string{
		"0.0.0-0", "0.0.0-a", "0.0.0", "0.0.1", "0.9.10", "0.10.0",
		"1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0-rc.1.1",
		"1.0.0", "1.0.1-rc-1", "2.0.0", "2026.11.1", "999999999999999999.0.0",
	}
}

func TestVersionsAreOrdered(t *testing.T) {
	all := ascending()
	for i, a := range all {
		for j, b := range all {
			v, err := ParseVersion(a)
			if err != nil {
				t.Fatal(err)
			}
			w, err := ParseVersion(b)
			if err != nil {
				t.Fatal(err)
			}
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := v.Compare(w); got != want {
				t.Errorf("%s against %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestVersionsWithTwoSpellingsOrNoOrderAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.x", "01.2.3", "1.02.3", "1.2.3+build", "1.2.3-", "1.2.3-a..b", "1.2.3-01", "1.2.3-a_b",
		" 1.2.3", "1.2.3 ", "+1.2.3", "1.-2.3", "1.2.3\n", "1.2.٣", "1000000000000000000.0.0", "1.2.3-1000000000000000000",
		"1.2.3-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("%q was read as %s", s, v)
		}
	}
}

func FuzzVersion(f *testing.F) {
	for _, s := range ascending() {
		f.Add(s, "1.0.0-rc.1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		v, err := ParseVersion(a)
		if err != nil {
			return
		}
		if v.String() != a {
			t.Errorf("%q has the second spelling %q", a, v)
		}
		w, err := ParseVersion(b)
		if err != nil {
			return
		}
		if v.Compare(w) != -w.Compare(v) || (v.Compare(w) == 0) != (a == b) {
			t.Errorf("%q and %q have no consistent order", a, b)
		}
	})
}
