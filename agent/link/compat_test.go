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

var update = flag.Bool("update", false, "write files that golden tests compare with")
