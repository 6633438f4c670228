package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

func day(n int) time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n) }

func entry(id string) Entry { return Entry{ID: id, Verb: "ping", Envelope: "00", Expires: day(1)} }

func reopen(t testing.TB, path string) *Ledger {
	t.Helper()
	l, err := Open(&fsx.FS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestReplayedCommandIsRefusedAcrossRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := reopen(t, path)
	must(t, l.Begin(entry("one")), l.Begin(entry("two")), l.Finish("one", "done"), l.Reported("one"))
	for range 2 {
		for _, id := range []string{"one", "two"} {
			if err := l.Begin(entry(id)); !errors.Is(err, ErrSeen) {
				t.Errorf("%s again: %v, want ErrSeen", id, err)
			}
		}
		if open := l.Unreported(); len(open) != 1 || open[0].ID != "two" || open[0].Verb != "ping" {
			t.Errorf("unreported: %+v", open)
		}
		l = reopen(t, path)
	}
	must(t, l.Begin(entry("three")))
}

func TestOneOfManyBeginsWins(t *testing.T) {
	l := reopen(t, filepath.Join(t.TempDir(), "ledger"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 100 {
		wg.Go(func() {
			if err := l.Begin(entry("same")); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			} else if !errors.Is(err, ErrSeen) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d of 100 began", won)
	}
}

func TestOrderOfRecordsIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := reopen(t, path)
	if l.Finish("one", "done") == nil || l.Reported("one") == nil {
		t.Error("finished what never began")
	}
	must(t, l.Begin(entry("one")))
	if l.Reported("one") == nil || l.Finish("one", "") == nil {
		t.Error("reported without an outcome")
	}
	must(t, l.Finish("one", "done"), l.Finish("one", "failed"), l.Reported("one"), l.Reported("one"))
	if e, ok := reopen(t, path).Get("one"); !ok || e.Outcome != "done" || !e.Reported {
		t.Errorf("%+v: an outcome changed", e)
	}
}

// A power cut tears the last line: what it held had not begun.
func TestTornEndIsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := reopen(t, path)
	must(t, l.Begin(entry("one")))
	before, err := os.ReadFile(path)
	must(t, err, l.Begin(entry("two")))
	after, err := os.ReadFile(path)
	must(t, err)
	for size := len(before); size < len(after); size += 5 {
		zeroed := append(bytes.Clone(after[:size]), make([]byte, len(after)-size)...)
		hole := append(append(bytes.Clone(before), make([]byte, size-len(before)+1)...), after[size+1:]...)
		for name, torn := range map[string][]byte{"torn": after[:size], "zeroed": zeroed, "hole": hole} {
			must(t, os.WriteFile(path, torn, 0o600))
			l, err := Open(&fsx.FS{}, path)
			if err != nil {
				t.Fatalf("%s at %d: %v", name, size, err)
			}
			must(t, l.Begin(entry("two")))
			if err := reopen(t, path).Begin(entry("one")); !errors.Is(err, ErrSeen) {
				t.Fatalf("%s at %d: one was forgotten: %v", name, size, err)
			}
		}
	}
}

func TestDamagedLedgerFailsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := reopen(t, path)
	must(t, l.Begin(entry("one")), l.Begin(entry("two")), l.Begin(entry("three")))
	good, err := os.ReadFile(path)
	must(t, err)
	lines := bytes.SplitAfter(good, []byte("\n"))
	damaged := map[string][]byte{
		"emptied": {}, "zeroed": make([]byte, len(good)), "line twice": append(bytes.Clone(good), lines[1]...),
		"wrong file": []byte("{}\n"), "header cut": good[:5], "torn in the middle": bytes.Join([][]byte{lines[0], lines[1][:9], lines[2]}, nil),
	}
	for i := range len(good) - 1 {
		flipped := bytes.Clone(good)
		flipped[i] ^= 4
		damaged[fmt.Sprintf("bit of byte %d", i)] = flipped
	}
	for name, data := range damaged {
		must(t, os.WriteFile(path, data, 0o600))
		_, err := Open(&fsx.FS{}, path)
		if !errors.Is(err, fsx.ErrDamaged) || !strings.Contains(err.Error(), "moved aside") {
			t.Errorf("%s: error is %v, want ErrDamaged and what to do", name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, data) {
			t.Errorf("%s: the damaged file was changed", name)
		}
	}
}

// TestLedgerOfALaterReleaseIsRead: that was left again, and wrote more in each line.
// A device that took it for damage would obey nobody until a person comes.
func TestLedgerOfALaterReleaseIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	must(t, reopen(t, path).Begin(entry("one")))
	data, err := os.ReadFile(path)
	must(t, err)
	_, body, _ := bytes.Cut(bytes.TrimSuffix(data[len(header):], []byte("\n")), []byte(" "))
	more := bytes.Replace(body, []byte("{"), []byte(`{"of_a_later_release":{"a":1},`), 1)
	must(t, os.WriteFile(path, []byte(header+checksum(more)+" "+string(more)+"\n"), 0o600))
	l := reopen(t, path)
	if err := l.Begin(entry("one")); !errors.Is(err, ErrSeen) {
		t.Errorf("one was forgotten: %v", err)
	}
	must(t, l.Begin(entry("two")))
}

func TestFullDiskRunsNothing(t *testing.T) {
	for _, op := range []string{fsx.OpCreate, fsx.OpWrite, fsx.OpSync} {
		path := filepath.Join(t.TempDir(), "ledger")
		full := false
		files := &fsx.FS{Hook: func(o, _ string) error {
			if full && o == op {
				return errors.New("no space left on device")
			}
			return nil
		}}
		l, err := Open(files, path)
		must(t, err, l.Begin(entry("one")))
		full = true
		for range 2 {
			if err := l.Begin(entry("two")); err == nil || errors.Is(err, ErrSeen) {
				t.Errorf("%s: begin says %v", op, err)
			}
		}
		full = false
		again := reopen(t, path)
		if err := again.Begin(entry("one")); !errors.Is(err, ErrSeen) {
			t.Errorf("%s: one was forgotten: %v", op, err)
		}
		must(t, again.Begin(entry("two")))
	}
}

// Only a floor that offline roles signed forgets, however far the clock ran.
func TestCompactionFollowsTheStoredFloor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := reopen(t, path)
	must(t, l.Begin(entry("reported")), l.Finish("reported", "done"), l.Reported("reported"))
	must(t, l.Begin(entry("finished")), l.Finish("finished", "done"), l.Begin(entry("open")))
	must(t, l.Compact(day(1)), l.Compact(day(32)))
	if _, ok := l.Get("reported"); !ok {
		t.Error("forgotten too early")
	}
	must(t, l.Compact(day(33)))
	for _, l := range []*Ledger{l, reopen(t, path)} {
		_, reported := l.Get("reported")
		_, finished := l.Get("finished")
		_, open := l.Get("open")
		if reported || !finished || !open {
			t.Errorf("kept: reported %v, finished %v, open %v", reported, finished, open)
		}
	}
}

func TestFailedCompactionForgetsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	files := &fsx.FS{}
	l, err := Open(files, path)
	must(t, err, l.Begin(entry("one")), l.Finish("one", "done"), l.Reported("one"))
	files.Hook = func(op, _ string) error { return errors.New("no space left on device") }
	if l.Compact(day(100)) == nil {
		t.Error("compacted without writing")
	}
	if err := l.Begin(entry("one")); !errors.Is(err, ErrSeen) {
		t.Errorf("one was forgotten: %v", err)
	}
}

func TestLedgerIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	data := []byte(header)
	for i := range maxEntries {
		line, err := encode(entry(fmt.Sprint(i)))
		must(t, err)
		data = append(data, line...)
	}
	must(t, os.WriteFile(path, data, 0o600))
	if err := reopen(t, path).Begin(entry("more")); !errors.Is(err, ErrFull) {
		t.Errorf("error is %v, want ErrFull", err)
	}
	if reopen(t, path).Begin(entry(strings.Repeat("x", maxWord+1))) == nil {
		t.Error("an endless id was accepted")
	}
}

// FuzzOpen: no file panics, and what opens can be gone on with and opened again.
func FuzzOpen(f *testing.F) {
	line, err := encode(entry("one"))
	must(f, err)
	f.Add(append([]byte(header), line...))
	f.Add([]byte(header + "torn"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "ledger")
		must(t, os.WriteFile(path, data, 0o600))
		l, err := Open(&fsx.FS{}, path)
		if err != nil {
			return
		}
		if err := l.Begin(entry("fuzz")); err != nil && !errors.Is(err, ErrSeen) {
			t.Fatal(err)
		}
		if err := reopen(t, path).Begin(entry("fuzz")); !errors.Is(err, ErrSeen) {
			t.Errorf("forgotten: %v", err)
		}
	})
}
