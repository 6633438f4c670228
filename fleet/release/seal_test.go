package release_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"net"
	"os"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
	target "github.com/gatewarden/gatewarden/update/release"
)

// machine is a gateway with a chip of its own.
type machine struct {
	t        *testing.T
	state    *tpmtest.Machine
	power    *tpmtest.Power
	chip     *tpm.TPM
	counters uint32
}

// boot cuts the power and measures what firmware, loader, stub and systemd measure.
func (m *machine) boot(b attest.Boot, phases ...string) {
	m.t.Helper()
	if m.state == nil {
		m.state, m.power = tpmtest.Start(m.t)
	} else {
		_ = m.chip.Close()
		_ = m.power.Kill()
		m.power = tpmtest.PowerOn(m.t, m.state)
	}
	extend := func(pcr int, digest [32]byte) { must(m.t, m.power.Extend(m.t.Context(), pcr, digest)) }
	extend(4, sha256.Sum256([]byte("Calling EFI Application from Boot Option")))
	extend(4, sha256.Sum256(make([]byte, 4)))
	extend(7, sha256.Sum256([]byte("Secure Boot is off")))
	for _, e := range attest.BootEvents(b) {
		extend(e.PCR, e.Digest)
	}
	for _, phase := range phases {
		extend(11, sha256.Sum256([]byte(phase)))
	}
	conn, err := net.Dial("unix", m.power.Socket)
	must(m.t, err)
	m.chip = tpm.New(transport.FromReadWriteCloser(conn))
	chip := m.chip
	m.t.Cleanup(func() { _ = chip.Close() })
}

func (m *machine) opens(blob []byte, r *target.Release) error {
	var list []tpmpolicy.Signed
	for _, p := range r.PCRPolicies {
		list = append(list, tpmpolicy.Signed{PCRs: p.PCRs, Key: tpmpolicy.Digest(p.Key), Policy: tpmpolicy.Digest(p.Policy), Signature: p.Signature})
	}
	_, err := seal.Unseal(m.t.Context(), m.chip, blob, list)
	return err
}

// bootOf reads the boot files of a release.
func (a *author) bootOf(version string) attest.Boot {
	a.t.Helper()
	o := a.options(version, 1)
	uki, err := os.ReadFile(o.UKI)
	must(a.t, err)
	loader, err := os.ReadFile(o.Loader)
	must(a.t, err)
	b, err := attest.ReadUKI(uki, loader)
	must(a.t, err)
	return b
}

// A secret that was sealed in release 1 opens in release 2, by what release 2 carries
// and no network, and in no other boot.
func TestASecretFollowsFromReleaseToRelease(t *testing.T) {
	a := newAuthor(t)
	a.build("1.0.0", 1)
	a.build("1.1.0", 2)
	a.sign()
	a.publish()
	list, err := a.repo.List()
	must(t, err)
	d := a.device(a.root(1))
	must(t, d.Refresh(t.Context()))
	block, _ := pem.Decode(d.download("policy/pcr/edge.pem"))
	key, err := tpmpolicy.ParseKey(block.Bytes)
	must(t, err)

	m := &machine{t: t}
	m.boot(a.bootOf("1.0.0"), "sysinit", "ready")
	always := m.seal(key, "")
	must(t, m.opens(always, list[0]))
	m.boot(a.bootOf("1.0.0"), "sysinit")
	early := m.seal(key, "ready")
	must(t, m.opens(early, list[0]))

	m.boot(a.bootOf("1.1.0"), "sysinit")
	must(t, m.opens(always, list[1]))
	must(t, m.opens(early, list[1]))
	if m.opens(always, list[0]) == nil {
		t.Error("release 1.0.0 speaks for the boot of 1.1.0")
	}
	m.boot(a.bootOf("1.1.0"), "sysinit", "ready")
	must(t, m.opens(always, list[1]))
	if m.opens(early, list[1]) == nil {
		t.Error("what shuts at ready opens after it")
	}
	m.boot(a.bootOf("1.1.0"), "sysinit", "ready", "shutdown")
	if m.opens(always, list[1]) == nil {
		t.Error("it opens while the machine shuts down")
	}
	m.boot(a.bootOf("6.6.6"), "sysinit", "ready")
	if m.opens(always, list[1]) == nil {
		t.Error("it opens in a boot that nobody approved")
	}
}

func (m *machine) seal(key crypto.PublicKey, until string) []byte {
	m.t.Helper()
	p := seal.Policy{
		Name: "disk", Key: key, Counter: m.counter(),
		Ref: tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{4, 11, 12, 13}, Until: until},
	}
	blob, err := seal.Seal(m.t.Context(), m.chip, []byte("the secret"), p)
	must(m.t, err)
	return blob
}

// counter defines an NV counter, another one at each call.
func (m *machine) counter() seal.Counter {
	m.t.Helper()
	owner, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(m.t, err)
	var record counter.Record
	m.counters++
	must(m.t, m.chip.Do(m.t.Context(), "define counter", func(c *tpm.Chip) (err error) {
		record, err = counter.Define(c, owner, counter.Index+m.counters, nil)
		return err
	}))
	return seal.Counter{Index: record.Index, Name: record.Name(), Value: record.Initial}
}
