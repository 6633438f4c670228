package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func clock() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }

func open(t testing.TB, path string) *Log {
	t.Helper()
	l, err := Open(&fsx.FS{}, path, clock)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func add(t testing.TB, l *Log, names ...string) wire.Event {
	t.Helper()
	var e wire.Event
	for _, name := range names {
		var err error
		if e, err = l.Append(name, "A sentence about "+name+"."); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func names(t testing.TB, l *Log, n int) string {
	t.Helper()
	list, err := l.Tail(n)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "%d:%s ", e.Index, e.Name)
	}
	return b.String()
}

func TestHeadsOfOlderEntriesAreKnownWhileTheLogHoldsThem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	heads := []string{strings.Repeat("0", 64)}
	for range 5 {
		heads = append(heads, add(t, l, "one").Head)
	}
	for _, log := range []*Log{l, open(t, path)} {
		for i, want := range heads {
			if got, known, err := log.HeadAt(uint64(i)); err != nil || !known || got != want {
				t.Errorf("entry %d: %s %v %v, want %s", i, got, known, err, want)
			}
		}
		if _, known, err := log.HeadAt(6); known || err != nil {
			t.Errorf("an entry to come is known: %v", err)
		}
	}
}

func TestChainGoesOnAcrossRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	if index, head := l.Head(); index != 0 || head != strings.Repeat("0", 64) {
		t.Errorf("empty log has head %d %s", index, head)
	}
	event := add(t, l, "a", "b")
	l = open(t, path)
	if index, head := l.Head(); index != 2 || event.Index != 2 || head != event.Head {
		t.Errorf("head is %d %s, the event said %d %s", index, head, event.Index, event.Head)
	}
	last := add(t, l, "c")
	if got := names(t, l, 2); got != "2:b 3:c " {
		t.Errorf("tail is %q", got)
	}
	index, head, err := Verify(&fsx.FS{}, path)
	if err != nil || index != 3 || head != last.Head {
		t.Errorf("verified %d %s, %v", index, head, err)
	}
}

func TestAlteredDroppedOrInsertedEntryIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	add(t, open(t, path), "a", "b", "c", "d")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	_, head, _ := Verify(&fsx.FS{}, path)
	changes := map[string][]byte{
		"dropped":  bytes.Join([][]byte{lines[0], lines[1], lines[3]}, nil),
		"inserted": bytes.Join([][]byte{lines[0], lines[1], lines[1], lines[2]}, nil),
		"swapped":  bytes.Join([][]byte{lines[1], lines[0]}, nil),
	}
	for i := range good {
		changed := bytes.Clone(good)
		changed[i] ^= 1
		changes[fmt.Sprintf("byte %d", i)] = changed
	}
	for name, data := range changes {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, now, err := Verify(&fsx.FS{}, path); err == nil && now == head {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestTornEndIsCutOffAndSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	add(t, open(t, path), "a", "b")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	second := bytes.IndexByte(good, '\n') + 1
	for size := second + 1; size < len(good); size++ {
		if err := os.WriteFile(path, good[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if got := names(t, open(t, path), 9); got != "1:a 2:audit.torn " {
			t.Fatalf("cut to %d bytes: log is %q", size, got)
		}
		if _, _, err := Verify(&fsx.FS{}, path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamagedLogIsKeptAsideAndSaid(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[5] ^= 1; return b },
		"garbage": func([]byte) []byte { return []byte("garbage\n") },
		"too big": func([]byte) []byte { return make([]byte, maxRead+1) },
	} {
		path := filepath.Join(t.TempDir(), "audit.log")
		add(t, open(t, path), "a", "b")
		data, _ := os.ReadFile(path)
		data = damage(data)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, path)
		if got := names(t, l, 9); got != "1:audit.damaged " {
			t.Errorf("%s: log is %q", name, got)
		}
		if kept, _ := os.ReadFile(path + ".damaged"); !bytes.Equal(kept, data) {
			t.Errorf("%s: the damaged log was not kept", name)
		}
		add(t, l, "c")
		if got := names(t, open(t, path), 9); got != "1:audit.damaged 2:c " {
			t.Errorf("%s: log is %q", name, got)
		}
	}
}

// fill makes a log that is almost full.
func fill(t testing.TB, path string) {
	t.Helper()
	var at position
	var data []byte
	for len(data) < maxFile-3*wire.MaxText {
		line, err := json.Marshal(Entry{Version: 1, Index: at.index + 1, Name: "filler", Text: strings.Repeat("x", wire.MaxText), Prev: hex.EncodeToString(at.head[:])})
		if err != nil {
			t.Fatal(err)
		}
		data, at = append(append(data, line...), '\n'), at.after(line)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLogIsBoundedAndItsChainGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	fill(t, path)
	l := open(t, path)
	text := strings.Repeat("x", wire.MaxText)
	var last wire.Event
	for range 10 {
		var err error
		if last, err = l.Append("filler", text); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 10*2*wire.MaxText {
		t.Errorf("the log was not turned over: %v, %v", info, err)
	}
	var size int64
	for _, name := range []string{path, path + ".1"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 2*maxFile {
		t.Errorf("the log takes %d bytes", size)
	}
	index, head, err := Verify(&fsx.FS{}, path)
	if err != nil || index != last.Index || head != last.Head {
		t.Errorf("verified %d %s, %v; want %d %s", index, head, err, last.Index, last.Head)
	}
	if err := os.Remove(path); err != nil { // the power went just after turning over
		t.Fatal(err)
	}
	before, _ := open(t, path).Head()
	if e := add(t, open(t, path), "next"); before == 0 || e.Index != before+1 {
		t.Errorf("after index %d came %d", before, e.Index)
	}
}

func TestFailedWriteDoesNotBreakTheChain(t *testing.T) {
	for _, op := range []string{fsx.OpCreate, fsx.OpWrite, fsx.OpSync} {
		path := filepath.Join(t.TempDir(), "audit.log")
		full := false
		files := &fsx.FS{Hook: func(o, _ string) error {
			if full && o == op {
				return errors.New("no space left on device")
			}
			return nil
		}}
		l, err := Open(files, path, clock)
		if err != nil {
			t.Fatal(err)
		}
		add(t, l, "a")
		full = true
		if _, err := l.Append("b", "text"); err == nil {
			t.Errorf("%s: written to a full disk", op)
		}
		// As if the file system had taken half of it before it said no.
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(`{"v":1,`)
		f.Close()
		full = false
		want := add(t, l, "c")
		if index, head, err := Verify(&fsx.FS{}, path); err != nil || index != 2 || head != want.Head {
			t.Errorf("%s: verified %d, %v", op, index, err)
		}
	}
}

func TestLongAndOddTextIsCut(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.log"))
	e, err := l.Append(strings.Repeat("n", 1000), strings.Repeat("ü", wire.MaxText)+"\xff\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Name) > maxName || len(e.Text) > wire.MaxText || !utf8.ValidString(e.Text) {
		t.Errorf("entry has name of %d and text of %d bytes", len(e.Name), len(e.Text))
	}
	add(t, l, "line\nbreak")
	if _, _, err := Verify(&fsx.FS{}, l.path); err != nil {
		t.Error(err)
	}
}

// FuzzOpen: whatever the file holds, the log opens, goes on and verifies.
func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "audit.log")
	add(f, open(f, path), "a", "b")
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\n"))
	f.Add([]byte("{}\x00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		want := add(t, open(t, path), "fuzz")
		if _, head, err := Verify(&fsx.FS{}, path); err != nil || head != want.Head {
			t.Errorf("verify: %v", err)
		}
	})
}
