package link

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func open(t *testing.T, path string, l Limits) *Outbox {
	t.Helper()
	o, err := OpenOutbox(path, l, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func put(t *testing.T, o *Outbox, kind wire.Kind, i int) {
	t.Helper()
	if err := o.Put(kind, time.Unix(int64(i), 0), map[string]int{"i": i}); err != nil {
		t.Fatal(err)
	}
}

// content lists "seq<prev:body" of one class.
func content(t *testing.T, o *Outbox, c class) string {
	t.Helper()
	var all []string
	for seq := uint64(0); ; {
		_, up, ok, err := o.next(c, seq)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return strings.Join(all, " ")
		}
		all, seq = append(all, fmt.Sprintf("%d<%d:%s", up.Seq, up.Prev, up.Body)), up.Seq
	}
}

func ack(t *testing.T, o *Outbox, c class, upTo uint64) {
	t.Helper()
	if err := o.acknowledge(wire.Ack{Stream: o.stream(c).ID, UpTo: upTo}); err != nil {
		t.Fatal(err)
	}
}

func TestWhatPutAcceptedIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := open(t, path, DefaultLimits())
	put(t, o, wire.KindHealth, 1)
	put(t, o, wire.KindEvent, 2)
	put(t, o, wire.KindReceipt, 3)
	ack(t, o, security, 1)
	id := o.stream(security).ID
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	o = open(t, path, DefaultLimits())
	if got := content(t, o, security) + " | " + content(t, o, telemetry); got != `2<1:{"i":3} | 1<0:{"i":1}` {
		t.Errorf("after reopening: %s", got)
	}
	if o.stream(security).ID != id || !strings.HasSuffix(id, "-s") || o.Pending() != 2 {
		t.Errorf("stream %s became %s, %d pending", id, o.stream(security).ID, o.Pending())
	}
	ack(t, o, security, 2)
	put(t, o, wire.KindEvent, 4)
	if got := content(t, o, security); got != `3<2:{"i":4}` {
		t.Errorf("numbers went on as %s", got)
	}
}

func TestSecondProcessCanNotOpenTheOutbox(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "outbox.db")
	open(t, path, DefaultLimits())
	if o, err := OpenOutbox(path, DefaultLimits(), quiet()); err == nil {
		o.Close()
		t.Error("it was opened twice")
	}
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Error("a locked file was taken for a damaged one")
	}
}

func TestFullOutboxDropsOldestTelemetryThenOldestSecurity(t *testing.T) {
	o := open(t, filepath.Join(t.TempDir(), "outbox.db"), Limits{Bytes: 1 << 20, Count: 4})
	for i := range 4 {
		put(t, o, wire.KindHealth, i)
	}
	put(t, o, wire.KindEvent, 10)
	put(t, o, wire.KindEvent, 11)
	if got := content(t, o, telemetry); got != `3<0:{"i":2} 4<3:{"i":3}` {
		t.Errorf("telemetry: %s", got)
	}
	for i := 12; i < 17; i++ {
		put(t, o, wire.KindReceipt, i)
	}
	if got := content(t, o, security); got != `4<0:{"i":13} 5<4:{"i":14} 6<5:{"i":15} 7<6:{"i":16}` {
		t.Errorf("security: %s", got)
	}
	if o.Dropped() != 7 || o.Pending() != 4 {
		t.Errorf("dropped %d, pending %d; want 7 and 4", o.Dropped(), o.Pending())
	}
}

func TestOutboxIsBoundedInBytesOnDiskToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	limits := Limits{Bytes: 200 << 10, Count: 1000}
	o := open(t, path, limits)
	body := map[string]string{"x": strings.Repeat("x", 20<<10)}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 5 {
				if err := o.Put(wire.KindHealth, time.Time{}, body); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s := o.stream(telemetry); s.bytes > limits.Bytes || s.count() < 5 {
		t.Errorf("%d bytes in %d messages are stored", s.bytes, s.count())
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > 10<<20 {
		t.Errorf("file of %d bytes (%v) for %d of messages", info.Size(), err, limits.Bytes)
	}
}

func TestAcks(t *testing.T) {
	o := open(t, filepath.Join(t.TempDir(), "outbox.db"), DefaultLimits())
	for i := range 5 {
		put(t, o, wire.KindHealth, i)
	}
	if err := o.acknowledge(wire.Ack{Stream: "other-t", UpTo: 5}); err != nil || o.Pending() != 5 {
		t.Errorf("an ack for another stream left %d of 5 (%v)", o.Pending(), err)
	}
	ack(t, o, telemetry, 3)
	if got := content(t, o, telemetry); got != `4<3:{"i":3} 5<4:{"i":4}` {
		t.Errorf("after 3: %s", got)
	}
	// The fleet was restored from a backup: what follows must still be acceptable.
	ack(t, o, telemetry, 1)
	if got := content(t, o, telemetry); got != `4<1:{"i":3} 5<4:{"i":4}` {
		t.Errorf("after rewinding to 1: %s", got)
	}
	// The fleet has more than was ever numbered: this file is an old copy.
	old := o.stream(telemetry).ID
	ack(t, o, telemetry, 9)
	if got := content(t, o, telemetry); got != `1<0:{"i":3} 2<1:{"i":4}` || o.stream(telemetry).ID == old {
		t.Errorf("after 9: %s", got)
	}
}

func TestWhatDoesNotWaitOrIsTooLongIsRefused(t *testing.T) {
	o := open(t, filepath.Join(t.TempDir(), "outbox.db"), DefaultLimits())
	for _, kind := range []wire.Kind{wire.KindHello, wire.KindEvidence, wire.KindCommand, "x"} {
		if err := o.Put(kind, time.Time{}, 1); err == nil {
			t.Errorf("%s was queued", kind)
		}
	}
	if err := o.Put(wire.KindHealth, time.Time{}, strings.Repeat("x", wire.MaxBody)); err == nil {
		t.Error("an oversized body was queued")
	}
	if err := o.Put(wire.KindHealth, time.Time{}, func() {}); err == nil {
		t.Error("a function was queued")
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := o.Put(wire.KindHealth, time.Time{}, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("put after close: %v", err)
	}
}

func TestPlantedSymlinkIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, filepath.Join(dir, "outbox.db")); err != nil {
		t.Fatal(err)
	}
	if o, err := OpenOutbox(filepath.Join(dir, "outbox.db"), DefaultLimits(), quiet()); err == nil {
		o.Close()
		t.Error("a symlink was opened")
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("the symlink was followed")
	}
}

func TestLaterFormatIsRefusedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := open(t, path, DefaultLimits())
	put(t, o, wire.KindHealth, 1)
	setFormat(t, o, "2")
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenOutbox(path, DefaultLimits(), quiet()); !errors.Is(err, errFormat) {
		t.Errorf("later format: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// Every page and a sweep of bytes of a real file: truncated, zeroed, flipped.
func TestDamagedOutboxIsReportedAndRebuilt(t *testing.T) {
	t.Parallel()
	sample := filepath.Join(t.TempDir(), "outbox.db")
	o := open(t, sample, DefaultLimits())
	for i := range 40 {
		put(t, o, [...]wire.Kind{wire.KindHealth, wire.KindEvent}[i%2], i)
	}
	before := content(t, o, security) + content(t, o, telemetry)
	ack(t, o, telemetry, 3)
	want := content(t, o, security) + content(t, o, telemetry)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	dir, rebuilt, n := t.TempDir(), 0, 0
	try := func(what string, data []byte) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("%d.db", n))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		o, err := OpenOutbox(path, DefaultLimits(), slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer o.Close()
		if _, err := os.Stat(path + ".damaged"); err == nil {
			rebuilt++
			if !strings.Contains(log.String(), "damaged") || o.Pending() != 0 {
				t.Errorf("%s: rebuilt without a word, or not empty: %s", what, log.String())
			}
		} else if got := content(t, o, security) + content(t, o, telemetry); got != want && got != before && len(data) > 0 {
			// The file has two heads; with the newer one damaged, the state is
			// that before the last commit.
			t.Errorf("%s: neither whole nor rebuilt: %s", what, got)
		}
		put(t, o, wire.KindEvent, 1) // and it works
	}
	flip := func(at int) {
		bad := bytes.Clone(good)
		bad[at] ^= 0x10
		try(fmt.Sprintf("bit flipped at %d", at), bad)
	}
	try("empty", nil)
	try("garbage", bytes.Repeat([]byte("garbage "), 5000))
	for page := 0; page < len(good); page += 4096 {
		try(fmt.Sprintf("cut at %d", page+100), good[:page+100])
		zeroed := bytes.Clone(good)
		clear(zeroed[page : page+4096])
		try(fmt.Sprintf("page at %d zeroed", page), zeroed)
		for at := page; at < page+64; at += 5 {
			flip(at)
		}
	}
	for at := 0; at < len(good); at += 997 {
		flip(at)
	}
	if rebuilt < 10 {
		t.Errorf("only %d of %d damaged files were noticed", rebuilt, n)
	}
}
