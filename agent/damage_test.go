package agent_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
)

// damages are what a power cut or a dying disk makes of a file.
func damages() map[string]func([]byte) []byte {
	return map[string]func([]byte) []byte{
		"emptied":                 func([]byte) []byte { return nil },
		"cut in half":             func(b []byte) []byte { return b[:len(b)/2] },
		"zeroed":                  func(b []byte) []byte { return make([]byte, len(b)) },
		"one bit flipped":         flipped(1, 3),
		"one bit flipped halfway": flipped(1, 2),
		"one bit flipped later":   flipped(2, 3),
		"lost":                    nil,
	}
}

func flipped(share, of int) func([]byte) []byte {
	return func(b []byte) []byte {
		b = slices.Clone(b)
		if len(b) > 0 {
			b[len(b)*share/of] ^= 4
		}
		return b
	}
}

// stateFiles lists the files of a state folder by their names in it.
func stateFiles(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Each file in turn, on one device that lives on: whatever is lost, it keeps its
// identity and comes back trusted. Only a lost attestation key needs a person.
func TestEveryDamagedStateFileIsSurvivedWithTheSameIdentity(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	device := r.Device()
	r.end(t)
	state := w.gateway.Settings.State
	names := stateFiles(t, state)
	for _, want := range []string{"format.json", "time-floor.json", "audit.log", "outbox.db", "verdict.json", "commands.ledger", "identity/ek.json", "identity/ak.pem", "identity/operational.pem"} {
		if !slices.Contains(names, want) {
			t.Errorf("the state folder holds no %s: %q", want, names)
		}
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".damaged") {
			continue
		}
		for how, damage := range damages() {
			if name == "identity/ak.pem" && how != "lost" && how != "cut in half" && how != "one bit flipped" {
				continue // each waits for a person
			}
			t.Run(name+" "+how, func(t *testing.T) {
				spoil(t, filepath.Join(state, name), damage)
				began := time.Now()
				r := w.run(t, build())
				if r.Device() != device {
					t.Fatalf("the device is %s now, it was %s", r.Device(), device)
				}
				if name == "identity/ak.pem" {
					w.approve(t, device)
				}
				s := r.await(t, well(began))
				if s.Device != device || s.Certificate == nil || s.Certificate.Identity != device {
					t.Errorf("status %+v", s)
				}
				if name == "anchor.json" { // written by a task of its own, which may not have begun
					if err := r.Anchor(t.Context()); err != nil {
						t.Error(err)
					}
				}
				r.end(t)
				if name == "commands.ledger" {
					w.restoreLedger(t, filepath.Join(state, name), s)
				}
			})
		}
	}
}

func spoil(t *testing.T, path string, damage func([]byte) []byte) {
	t.Helper()
	if damage == nil {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// restoreLedger moves a damaged ledger aside, as the status says that a person
// must: until then the device obeys nobody, because it can't tell what it ran.
func (w *world) restoreLedger(t *testing.T, path string, s local.Status) {
	t.Helper()
	if s.Problem == "" {
		return // it was lost or torn, and made anew
	}
	if !strings.Contains(s.Problem, "no command runs until the file is moved aside") {
		t.Errorf("the status says %q", s.Problem)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.run(t, build()).end(t) // makes a new one
}
