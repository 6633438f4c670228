package seal_test

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"net"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// boot is what is extended into each PCR, in order.
type boot map[int][]string

// release is a good boot of a version, to the phase "ready".
func release(version string) boot {
	return boot{
		0: {"firmware"}, 4: {"loader " + version, "kernel " + version}, 7: {"Secure Boot on", "db"},
		11: {".linux " + version, "sysinit", "ready"}, 12: {"cmdline " + version}, 13: {},
	}
}

// with is the same boot with one PCR extended otherwise.
func (b boot) with(pcr int, events ...string) boot {
	other := maps.Clone(b)
	other[pcr] = events
	return other
}

// values is what the PCRs will hold, computed without a TPM.
func (b boot) values(pcrs []int) map[int]tpmpolicy.Digest {
	values := make(map[int]tpmpolicy.Digest)
	for _, pcr := range pcrs {
		var value tpmpolicy.Digest
		for _, event := range b[pcr] {
			digest := sha256.Sum256([]byte(event))
			value = sha256.Sum256(append(value[:], digest[:]...))
		}
		values[pcr] = value
	}
	return values
}

// gateway is a machine with a chip, a counter and an owner's PCR-policy key.
type gateway struct {
	t          testing.TB
	machine    *tpmtest.Machine
	power      *tpmtest.Power
	chip       *tpm.TPM
	faults     *tpmtest.Faults
	key        crypto.Signer
	counterKey *ecdsa.PrivateKey
	record     counter.Record
	auth       tpm.Auth
}

func newGateway(t testing.TB, b boot) *gateway {
	t.Helper()
	machine, power := tpmtest.Start(t)
	g := &gateway{t: t, machine: machine, power: power, key: newKey(t), counterKey: newKey(t)}
	g.begin(b)
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

// boot cuts the power and boots again.
func (g *gateway) boot(b boot) {
	g.t.Helper()
	_ = g.chip.Close()
	_ = g.power.Kill()
	g.power = tpmtest.PowerOn(g.t, g.machine)
	g.begin(b)
}

func (g *gateway) begin(b boot) {
	g.t.Helper()
	for _, pcr := range slices.Sorted(maps.Keys(b)) {
		for _, event := range b[pcr] {
			if err := g.power.Extend(context.Background(), pcr, sha256.Sum256([]byte(event))); err != nil {
				g.t.Fatal(err)
			}
		}
	}
	g.connect()
}

// reconnect gives up a connection that is of no use any more.
func (g *gateway) reconnect() {
	g.t.Helper()
	_ = g.chip.Close()
	g.connect()
}

func (g *gateway) connect() {
	g.t.Helper()
	conn, err := net.Dial("unix", g.power.Socket)
	if err != nil {
		g.t.Fatal(err)
	}
	g.faults = tpmtest.NewFaults(transport.FromReadWriteCloser(conn))
	g.chip = tpm.New(g.faults, tpm.WithAuth(g.auth))
	chip := g.chip
	g.t.Cleanup(func() { _ = chip.Close() })
}

func (g *gateway) do(fn func(*tpm.Chip) error) {
	g.t.Helper()
	if err := g.chip.Do(context.Background(), "test", fn); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) raise(delta uint64) {
	g.t.Helper()
	g.do(func(c *tpm.Chip) error {
		_, err := counter.Raise(c, g.counterKey, g.record, delta)
		return err
	})
}

const cryptoSHA256 = crypto.SHA256

func digestOf(text string) [32]byte { return sha256.Sum256([]byte(text)) }

func ref(epoch uint64, pcrs ...int) tpmpolicy.Ref {
	if pcrs == nil {
		pcrs = []int{4, 11, 12, 13}
	}
	return tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: epoch, PCRs: pcrs}
}

// policy is for an epoch; the counter stands at the epoch less one.
func (g *gateway) policy(epoch uint64) seal.Policy {
	return seal.Policy{
		Name: "disk", Ref: ref(epoch), Key: g.key.Public(), SecureBoot: true,
		Counter: seal.Counter{Index: g.record.Index, Name: g.record.Name(), Value: g.record.Initial + epoch - 1},
	}
}

// approve is what a release at an epoch carries: policies for each epoch up to it.
func (g *gateway) approve(epoch uint64, boots ...boot) []tpmpolicy.Signed {
	g.t.Helper()
	var list []tpmpolicy.Signed
	for e := uint64(1); e <= epoch; e++ {
		for _, b := range boots {
			list = append(list, approve(g.t, g.key, ref(e), b))
		}
	}
	return list
}

func approve(t testing.TB, key crypto.Signer, r tpmpolicy.Ref, b boot) tpmpolicy.Signed {
	t.Helper()
	s, err := tpmpolicy.Approve(key, r, b.values(r.PCRs))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (g *gateway) seal(p seal.Policy) []byte {
	g.t.Helper()
	blob, err := seal.Seal(context.Background(), g.chip, []byte("the secret"), p)
	if err != nil {
		g.t.Fatal(err)
	}
	return blob
}

func (g *gateway) opens(blob []byte, signed []tpmpolicy.Signed) {
	g.t.Helper()
	secret, err := seal.Unseal(context.Background(), g.chip, blob, signed)
	if err != nil || string(secret) != "the secret" {
		g.t.Errorf("opened to %q, %v", secret, err)
	}
}

// shut wants a refusal by a rule that names these PCRs, and no handle left.
func (g *gateway) shut(blob []byte, signed []tpmpolicy.Signed, rule string, pcrs ...int) {
	g.t.Helper()
	secret, err := seal.Unseal(context.Background(), g.chip, blob, signed)
	var refusal *seal.Refusal
	if secret != nil || !errors.As(err, &refusal) || !errors.Is(err, tpm.ErrPolicy) {
		g.t.Errorf("opened to %q, %v", secret, err)
		return
	}
	if refusal.Rule != rule || !slices.Equal(refusal.PCRs, pcrs) {
		g.t.Errorf("refused by %s %v: %v", refusal.Rule, refusal.PCRs, err)
	}
	if handles, err := g.power.Handles(); err != nil || len(handles) > 1 { // the storage key may stay
		g.t.Errorf("handles left: %x %v", handles, err)
	}
}

// ecdsaParts splits an ASN.1 signature.
func ecdsaParts(t testing.TB, der []byte) (r, s []byte) {
	t.Helper()
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		t.Fatal(err)
	}
	return sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))
}

// opensBox tries a key on the encrypted part of a file, without its header.
func (g *gateway) opensBox(blob, key []byte) bool {
	g.t.Helper()
	var file struct {
		Header json.RawMessage
		Nonce  []byte
		Box    []byte
	}
	if err := json.Unmarshal(blob, &file); err != nil {
		g.t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		g.t.Fatal(err)
	}
	box, err := cipher.NewGCM(block)
	if err != nil {
		g.t.Fatal(err)
	}
	_, err = box.Open(nil, file.Nonce, file.Box, compact(file.Header))
	return err == nil
}
