package secret_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// gateway is a machine whose state folder and chip survive power cuts.
type gateway struct {
	t          testing.TB
	dir        string
	machine    *tpmtest.Machine
	power      *tpmtest.Power
	chip       *tpm.TPM
	key        *ecdsa.PrivateKey // PCR-policy key
	counterKey *ecdsa.PrivateKey
	record     counter.Record
	epoch      uint64                     // of the running release
	approved   []map[int]tpmpolicy.Digest // boots that the owner signed
}

func newGateway(t testing.TB, kernel string) *gateway {
	t.Helper()
	machine, power := tpmtest.Start(t)
	g := &gateway{t: t, dir: t.TempDir(), machine: machine, power: power, key: newKey(t), counterKey: newKey(t), epoch: 1}
	g.approved = []map[int]tpmpolicy.Digest{boot(kernel)}
	g.begin(kernel)
	g.do(func(c *tpm.Chip) (err error) {
		g.record, err = counter.Define(c, g.counterKey, counter.Index, nil)
		return err
	})
	return g
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func event(pcr int, kernel string) [32]byte {
	if pcr == 7 {
		kernel = "" // Secure Boot stays as it is
	}
	return sha256.Sum256([]byte{byte(pcr), byte(len(kernel))})
}

// boot is what PCRs hold after a kernel was booted.
func boot(kernel string) map[int]tpmpolicy.Digest {
	values := make(map[int]tpmpolicy.Digest)
	for _, pcr := range []int{4, 11, 12, 13} {
		digest := event(pcr, kernel)
		values[pcr] = sha256.Sum256(append(make([]byte, 32), digest[:]...))
	}
	return values
}

func (g *gateway) begin(kernel string) {
	g.t.Helper()
	for _, pcr := range []int{4, 7, 11, 12, 13} {
		if err := g.power.Extend(context.Background(), pcr, event(pcr, kernel)); err != nil {
			g.t.Fatal(err)
		}
	}
	chip, err := tpm.Open(context.Background(), "unix:"+g.power.Socket)
	if err != nil {
		g.t.Fatal(err)
	}
	g.chip = chip
	g.t.Cleanup(func() { _ = chip.Close() })
}

// reboot cuts the power.
func (g *gateway) reboot(kernel string) {
	g.t.Helper()
	_ = g.chip.Close()
	_ = g.power.Kill()
	g.power = tpmtest.PowerOn(g.t, g.machine)
	g.begin(kernel)
}

func (g *gateway) do(fn func(*tpm.Chip) error) {
	g.t.Helper()
	if err := g.chip.Do(context.Background(), "test", fn); err != nil {
		g.t.Fatal(err)
	}
}

// raise is what root does; it returns what the counter shows.
func (g *gateway) raise(epoch uint64) uint64 {
	g.t.Helper()
	value, err := g.tryRaise(epoch)
	if err != nil {
		g.t.Fatal(err)
	}
	return value
}

func (g *gateway) tryRaise(epoch uint64) (value uint64, err error) {
	err = g.chip.Do(context.Background(), "raise", func(c *tpm.Chip) (err error) {
		value, err = counter.Raise(c, g.counterKey, g.record, epoch-1)
		return err
	})
	return value, err
}

// cutAt makes the chip die after its nth command from now on.
func (g *gateway) cutAt(n int) {
	g.t.Helper()
	_ = g.chip.Close()
	conn, err := net.Dial("unix", g.power.Socket)
	if err != nil {
		g.t.Fatal(err)
	}
	faults := tpmtest.NewFaults(transport.FromReadWriteCloser(conn))
	faults.At(n, func(next transport.TPM, command []byte) ([]byte, error) {
		_, _ = next.Send(command)
		_ = g.power.Kill()
		return nil, errCut
	})
	chip := tpm.New(faults)
	g.chip = chip
	g.t.Cleanup(func() { _ = chip.Close() })
}

func (g *gateway) counter() uint64 {
	g.t.Helper()
	return g.raise(1)
}

func (g *gateway) policy(epoch uint64) seal.Policy {
	return seal.Policy{
		Ref: tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: epoch, PCRs: []int{4, 11, 12, 13}},
		Key: g.key.Public(), SecureBoot: true,
		Counter: seal.Counter{Index: g.record.Index, Name: g.record.Name(), Value: g.record.Initial + epoch - 1},
	}
}

func (g *gateway) signed(context.Context) ([]tpmpolicy.Signed, error) {
	var list []tpmpolicy.Signed
	for epoch := uint64(1); epoch <= g.epoch; epoch++ {
		for _, values := range g.approved {
			s, err := tpmpolicy.Approve(g.key, g.policy(epoch).Ref, values)
			if err != nil {
				return nil, err
			}
			list = append(list, s)
		}
	}
	return list, nil
}

// store opens the store as a start of the agent does.
func (g *gateway) store(hook func(op, path string) error) *secret.Store {
	g.t.Helper()
	s, err := secret.New(g.config(hook))
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

func (g *gateway) config(hook func(op, path string) error) secret.Config {
	return secret.Config{
		FS: &fsx.FS{Hook: hook}, Dir: g.dir + "/secrets", TPM: g.chip, Signed: g.signed,
		Policy: func(context.Context) (seal.Policy, error) { return g.policy(g.counter() - g.record.Initial + 1), nil },
		Log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}
