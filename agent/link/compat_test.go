package link

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// TestOutboxOfTheFirstFormatLoads reads a file that release 0.1 wrote. The file
// is never written anew; a new format brings a second one.
func TestOutboxOfTheFirstFormatLoads(t *testing.T) {
	sample := filepath.Join("testdata", "compat", "outbox-v1.db")
	if *update {
		o := open(t, sample, DefaultLimits())
		for i := range 3 {
			put(t, o, wire.KindHealth, i)
			put(t, o, wire.KindReceipt, i)
		}
		ack(t, o, telemetry, 1)
		o.Close()
	}
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "outbox.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	o := open(t, path, DefaultLimits())
	got := content(t, o, security) + " | " + content(t, o, telemetry)
	if want := `1<0:{"i":0} 2<1:{"i":1} 3<2:{"i":2} | 2<1:{"i":1} 3<2:{"i":2}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestOutboxOfALaterReleaseIsSent: that was left again, and queued a kind of message and
// a key that are not known here. Taken for damage, all that waits would be lost.
func TestOutboxOfALaterReleaseIsSent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := open(t, path, DefaultLimits())
	put(t, o, wire.KindReceipt, 0)
	later := seal([]byte(`{"kind":"dream","of_a_later_release":[1],"time":"2026-01-01T00:00:00Z","body":{"i":1}}`))
	if err := o.do(&request{class: security, record: later}); err != nil {
		t.Fatal(err)
	}
	o.Close()
	o = open(t, path, DefaultLimits())
	if got, want := content(t, o, security), `1<0:{"i":0} 2<1:{"i":1}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if kind, _, _, err := o.next(security, 1); kind != "dream" || err != nil {
		t.Errorf("it would be sent as %q, %v", kind, err)
	}
}

var update = flag.Bool("update", false, "write files that golden tests compare with")
