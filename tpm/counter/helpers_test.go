package counter_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log"
	"net"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestMain(m *testing.M) { tpmtest.Main(m) }

func dial(t *testing.T, p *tpmtest.Power) transport.TPMCloser {
	t.Helper()
	conn, err := net.Dial("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return transport.FromReadWriteCloser(conn)
}

// Root makes the counter once, and raises it when it commits a release of a later
// security epoch. The key is on disk before the counter is made.
func ExampleRaise() {
	ctx := context.Background()
	chip, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		log.Fatal(err)
	}
	defer chip.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	err = chip.Do(ctx, "raise epoch", func(c *tpm.Chip) error {
		record, err := counter.Define(c, key, counter.Index, nil)
		if err != nil {
			return err
		}
		_, err = counter.Raise(c, key, record, 1)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}
