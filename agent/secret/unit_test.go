package secret_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/secret"
)

func TestUnitGetsOnlyWhatWasSealedForIt(t *testing.T) {
	g := newGateway(t, "v1")
	s := g.store(nil)
	for name, unit := range map[string]string{"a": "web@eu.service", "b": "web@us.service", "c": ""} {
		if err := s.Put(t.Context(), name, secret.Terms{Unit: unit}, []byte("of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.GetFor(t.Context(), "web@eu.service", "a"); err != nil || string(got) != "of a" {
		t.Errorf("its own: %q, %v", got, err)
	}
	for _, ask := range []struct {
		unit, name string
		want       error
	}{
		{"web@eu.service", "b", secret.ErrUnit}, {"web@eu.service", "c", secret.ErrUnit}, {"", "c", secret.ErrUnit}, {"", "a", secret.ErrUnit},
		{"web@.service", "a", secret.ErrUnit}, {"WEB@eu.service", "a", secret.ErrUnit}, {"web@eu.service", "d", secret.ErrAbsent},
		{"web@eu.service", "../secrets/a", nil}, {"web@eu.service", "a.sealed/../a", nil},
	} {
		if got, err := s.GetFor(t.Context(), ask.unit, ask.name); err == nil || got != nil || ask.want != nil && !errors.Is(err, ask.want) {
			t.Errorf("%s asks for %s: %q, %v", ask.unit, ask.name, got, err)
		}
	}
	// The unit in a file is authenticated, as is all that it says.
	path := filepath.Join(g.dir, "secrets", "b.sealed")
	blob, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(blob), "web@us", "web@eu", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.GetFor(t.Context(), "web@eu.service", "b"); err == nil {
		t.Errorf("an altered file: %q", got)
	}
}

func TestUnitsThatSystemdCanNotAskForAreRefused(t *testing.T) {
	g := newGateway(t, "v1")
	s := g.store(nil)
	for _, unit := range []string{
		"wireguard", "a.target", ".service", "a/b.service", "a b.service", "getty@.service", "../a.service", "a.service\n", strings.Repeat("u", 75) + ".service",
	} {
		if err := s.Put(t.Context(), "x", secret.Terms{Unit: unit}, []byte("x")); err == nil {
			t.Errorf("%q was taken", unit)
		}
	}
	for _, unit := range []string{"", `dev-disk-by\x2dlabel.swap`, "srv-data.mount", "a.b@c.socket", strings.Repeat("u", 74) + ".service"} {
		if err := s.Put(t.Context(), "x", secret.Terms{Unit: unit}, []byte("x")); err != nil {
			t.Errorf("%q: %v", unit, err)
		}
	}
}

// TestReaderReadsWhatTheAgentWrites, in a folder that it may not write, or that is
// not there yet.
func TestReaderReadsWhatTheAgentWrites(t *testing.T) {
	g := newGateway(t, "v1")
	c := g.config(func(op, path string) error { return errors.New("this process writes: " + op + " " + path) })
	c.Policy = nil
	reader, err := secret.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.GetFor(t.Context(), "a.service", "a"); !errors.Is(err, secret.ErrAbsent) {
		t.Errorf("nothing was sealed yet: %v", err)
	}
	put(t, g.store(nil), "a", "it")
	if got, err := reader.GetFor(t.Context(), "a.service", "a"); err != nil || string(got) != "it" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := reader.Put(t.Context(), "b", secret.Terms{}, []byte("x")); err == nil {
		t.Error("a reader sealed something")
	}
}
