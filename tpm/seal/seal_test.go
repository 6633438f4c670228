package seal_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestOpensInTheRightBootAndAfterASignedUpdate, with no network and no new value
// known to the device.
func TestOpensInTheRightBootAndAfterASignedUpdate(t *testing.T) {
	g := newGateway(t, release("1"))
	blob := g.seal(g.policy(1))
	g.opens(blob, g.approve(1, release("1")))
	g.boot(release("1"))
	g.opens(blob, g.approve(1, release("1")))
	g.boot(release("2"))
	g.opens(blob, g.approve(1, release("1"), release("2")))
	g.shut(blob, g.approve(1, release("1")), "pcr", 4, 11, 12)
}

func TestRSAPolicyKeyOpensToo(t *testing.T) {
	g := newGateway(t, release("1"))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g.key = key
	g.opens(g.seal(g.policy(1)), g.approve(1, release("1")))
}

// TestAlteredBootStaysShut, and the refusal names the component.
func TestAlteredBootStaysShut(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	blob, signed := g.seal(g.policy(1)), g.approve(1, good)
	for _, c := range []struct {
		name string
		boot boot
		pcrs []int
	}{
		{"command line", good.with(12, "cmdline 1", "init=/bin/sh"), []int{12}},
		{"system extension", good.with(13, "evil.raw"), []int{13}},
		{"Secure Boot off", good.with(7, "Secure Boot off"), []int{7}},
		{"another program before", good.with(4, "evil.efi", "loader 1", "kernel 1"), []int{4}},
		{"a later phase", good.with(11, ".linux 1", "sysinit", "ready", "shutdown"), []int{11}},
		{"an earlier phase", good.with(11, ".linux 1"), []int{11}},
		{"another kernel and line", good.with(12, "x").with(11, "y"), []int{11, 12}},
	} {
		g.boot(c.boot)
		t.Log(c.name)
		g.shut(blob, signed, "pcr", c.pcrs...)
	}
	g.boot(good.with(0, "new firmware")) // a firmware update must not lose secrets
	g.opens(blob, signed)
}

// TestReplayedPCR11OpensNothing: any program that the firmware starts can extend the
// values that a release publishes.
func TestReplayedPCR11OpensNothing(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	blob := g.seal(g.policy(1))
	g.boot(boot{0: good[0], 7: good[7], 4: {"evil.efi"}, 11: good[11], 12: good[12], 13: good[13]})
	g.shut(blob, g.approve(1, good), "pcr", 4)
}

// TestPoliciesForOtherSecretsDoNotCount: older epoch, other channel, product, set of
// PCRs or phase, other key, no ref.
func TestPoliciesForOtherSecretsDoNotCount(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	g.raise(1)
	blob := g.seal(g.policy(2))
	g.opens(blob, g.approve(2, good))
	other := func(change func(*tpmpolicy.Ref)) []tpmpolicy.Signed {
		r := ref(2)
		change(&r)
		return []tpmpolicy.Signed{approve(t, g.key, r, good)}
	}
	for name, signed := range map[string][]tpmpolicy.Signed{
		"older epoch":  g.approve(1, good),
		"newer epoch":  other(func(r *tpmpolicy.Ref) { r.Epoch = 3 }),
		"channel":      other(func(r *tpmpolicy.Ref) { r.Channel = "beta" }),
		"product":      other(func(r *tpmpolicy.Ref) { r.Product = "core" }),
		"fewer PCRs":   other(func(r *tpmpolicy.Ref) { r.PCRs = []int{11, 12, 13} }),
		"until ready":  other(func(r *tpmpolicy.Ref) { r.Until = "ready" }),
		"other key":    {approve(t, newKey(t), ref(2), good)},
		"no signature": nil,
	} {
		t.Log(name)
		g.shut(blob, signed, "unsigned")
	}
	bare, err := tpmpolicy.ApproveWithoutRef(g.key, good.values(ref(2).PCRs))
	if err != nil {
		t.Fatal(err)
	}
	g.shut(blob, []tpmpolicy.Signed{bare}, "unsigned") // that is for systemd-cryptsetup
}

func TestSealedUntilReadyIsShutThen(t *testing.T) {
	early := release("1").with(11, ".linux 1", "sysinit")
	g := newGateway(t, early)
	p := g.policy(1)
	p.Ref.Until = "ready"
	signed := append(g.approve(1, release("1"), early), approve(t, g.key, p.Ref, early))
	blob := g.seal(p)
	g.opens(blob, signed)
	if err := g.chip.Extend(context.Background(), 11, digestOf("ready")); err != nil {
		t.Fatal(err)
	}
	g.shut(blob, signed, "pcr", 11)
}

// TestLockShutsEverythingUntilReboot is what a device in quarantine does.
func TestLockShutsEverythingUntilReboot(t *testing.T) {
	g := newGateway(t, release("1"))
	blob, signed := g.seal(g.policy(1)), g.approve(1, release("1"))
	if err := seal.Lock(context.Background(), g.chip); err != nil {
		t.Fatal(err)
	}
	g.shut(blob, signed, "pcr", 11)
	g.boot(release("1"))
	g.opens(blob, signed)
}

func TestRaisedEpochShutsOldSecretsForEver(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	old, next := g.seal(g.policy(1)), g.seal(g.policy(2))
	signed := g.approve(2, good)
	g.opens(old, signed)
	g.shut(next, signed, "counter") // its time has not come
	g.raise(1)
	g.shut(old, signed, "counter")
	g.opens(next, signed)
	g.boot(good)
	g.shut(old, signed, "counter")
	g.opens(next, signed)
}

func TestDeletedOrRecreatedCounterShuts(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	blob, signed := g.seal(g.policy(1)), g.approve(1, good)
	g.do(func(c *tpm.Chip) error {
		_, err := tpm2.NVUndefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(g.record.Index), Name: tpm2.TPM2BName{Buffer: g.record.Name()}},
		}.Execute(c)
		return err
	})
	g.shut(blob, signed, "counter")
	area, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](g.record.Public)
	if err != nil {
		t.Fatal(err)
	}
	area.Attributes.Written = false
	g.do(func(c *tpm.Chip) error {
		_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, PublicInfo: tpm2.New2B(*area)}.Execute(c)
		return err
	})
	g.shut(blob, signed, "counter")
}

// TestAnotherOrClearedChipIsNamed.
func TestAnotherOrClearedChipIsNamed(t *testing.T) {
	good := release("1")
	g, other := newGateway(t, good), newGateway(t, good)
	blob, signed := g.seal(g.policy(1)), g.approve(1, good)
	if _, err := seal.Unseal(context.Background(), other.chip, blob, signed); !errors.Is(err, tpm.ErrReplaced) {
		t.Errorf("another chip: %v", err)
	}
	info, err := seal.Inspect(blob)
	if err != nil {
		t.Fatal(err)
	}
	p := other.policy(1)
	p.Storage = info.Storage
	if _, err := seal.Seal(context.Background(), other.chip, []byte("x"), p); !errors.Is(err, tpm.ErrReplaced) {
		t.Errorf("another chip than the pinned one: %v", err)
	}
	g.do(func(c *tpm.Chip) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(c)
		return err
	})
	g.boot(good)
	if _, err := seal.Unseal(context.Background(), g.chip, blob, signed); !errors.Is(err, tpm.ErrReplaced) {
		t.Errorf("a cleared chip: %v", err)
	}
}

// TestSealRefusesWhatProtectsNothing.
func TestSealRefusesWhatProtectsNothing(t *testing.T) {
	g := newGateway(t, release("1"))
	for name, change := range map[string]func(*seal.Policy){
		"PCR 11 alone":             func(p *seal.Policy) { p.Ref.PCRs = []int{11} },
		"no Secure Boot, no PCR 4": func(p *seal.Policy) { p.SecureBoot = false; p.Ref.PCRs = []int{11, 12, 13} },
		"firmware values":          func(p *seal.Policy) { p.Ref.PCRs = []int{0, 4, 11, 12, 13} },
		"no PCR":                   func(p *seal.Policy) { p.Ref.PCRs = nil },
		"no counter":               func(p *seal.Policy) { p.Counter = seal.Counter{} },
		"no key":                   func(p *seal.Policy) { p.Key = nil },
		"no epoch":                 func(p *seal.Policy) { p.Ref.Epoch = 0 },
		"no name":                  func(p *seal.Policy) { p.Name = "" },
		"both":                     func(p *seal.Policy) { p.Literal = []map[int]tpmpolicy.Digest{release("1").values(p.Ref.PCRs)} },
		"values of other PCRs":     func(p *seal.Policy) { p.Key = nil; p.Literal = []map[int]tpmpolicy.Digest{{11: {1}}} },
		"a boot that has no kernel": func(p *seal.Policy) {
			p.Key = nil
			p.Literal = []map[int]tpmpolicy.Digest{boot{4: {"x"}}.values(p.Ref.PCRs)}
		},
	} {
		p := g.policy(1)
		change(&p)
		var refusal *seal.Refusal
		if _, err := seal.Seal(context.Background(), g.chip, []byte("x"), p); !errors.As(err, &refusal) || refusal.Rule != "policy" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, size := range []int{0, seal.MaxSecret + 1} {
		if _, err := seal.Seal(context.Background(), g.chip, make([]byte, size), g.policy(1)); err == nil {
			t.Errorf("%d bytes were sealed", size)
		}
	}
	for _, pcr := range []int{4, 7, 11} {
		g.boot(release("1").with(pcr))
		if _, err := seal.Seal(context.Background(), g.chip, []byte("x"), g.policy(1)); err == nil || !strings.Contains(err.Error(), "never extended") {
			t.Errorf("PCR %d empty: %v", pcr, err)
		}
	}
	for name, bad := range map[string][]byte{"empty": {}, "no JSON": []byte("x"), "too large": bytes.Repeat([]byte(" "), seal.MaxBlob+1)} {
		if _, err := seal.Unseal(context.Background(), g.chip, bad, nil); !errors.Is(err, tpm.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLargeSecretsAndNoHandleLeft.
func TestLargeSecretsAndNoHandleLeft(t *testing.T) {
	g := newGateway(t, release("1"))
	secret := make([]byte, seal.MaxSecret)
	_, _ = rand.Read(secret)
	blob, err := seal.Seal(context.Background(), g.chip, secret, g.policy(1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := seal.Unseal(context.Background(), g.chip, blob, g.approve(1, release("1")))
	if err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_ = g.chip.Close()
	if handles, err := g.power.Handles(); err != nil || len(handles) != 0 {
		t.Errorf("handles left: %x %v", handles, err)
	}
}

// TestWithoutSignaturesTheNextBootIsNamed: this boot and the predicted one open it.
func TestWithoutSignaturesTheNextBootIsNamed(t *testing.T) {
	g := newGateway(t, release("1"))
	p := g.policy(1)
	p.Key = nil
	for _, version := range []string{"1", "2"} {
		p.Literal = append(p.Literal, release(version).values(p.Ref.PCRs))
	}
	both := g.seal(p)
	p.Literal = p.Literal[:1]
	one := g.seal(p)
	g.opens(both, nil)
	g.opens(one, nil)
	g.boot(release("2"))
	g.opens(both, nil)
	g.shut(one, nil, "pcr", 4, 11, 12)
	g.boot(release("3"))
	g.shut(both, nil, "pcr", 4, 11, 12)
	g.boot(release("2").with(7, "Secure Boot off"))
	g.shut(both, nil, "pcr", 7)
	g.boot(release("2"))
	g.raise(1)
	g.shut(both, nil, "counter")
}

// TestRecoveryKeyOpensOneFile, in any boot and at any epoch, and no other file.
func TestRecoveryKeyOpensOneFile(t *testing.T) {
	g := newGateway(t, release("1"))
	recovery := newKey(t)
	p := g.policy(1)
	p.Recovery = recovery.Public()
	blob, second := g.seal(p), g.seal(p)
	g.opens(blob, g.approve(1, release("1")))
	g.raise(1)
	g.boot(release("9").with(7, "Secure Boot off"))
	digest, err := seal.RecoveryDigest(blob)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := recovery.Sign(rand.Reader, digest, cryptoSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := seal.Recover(context.Background(), g.chip, blob, signature); err != nil || string(secret) != "the secret" {
		t.Errorf("recovered %q, %v", secret, err)
	}
	if _, err := seal.Recover(context.Background(), g.chip, second, signature); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("another file: %v", err)
	}
	forged, err := newKey(t).Sign(rand.Reader, digest, cryptoSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Recover(context.Background(), g.chip, blob, forged); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("another key: %v", err)
	}
	if _, err := seal.RecoveryDigest(g.boot1(t)); err == nil {
		t.Error("a file without a recovery key has a recovery digest")
	}
}

func (g *gateway) boot1(t *testing.T) []byte {
	t.Helper()
	g.boot(release("1"))
	return g.seal(g.policy(1))
}

// TestOwnerPasswordIsUsedNamedOrNotNeeded: with the standard persistent storage key it is
// not needed; without one it is used, and without it the refusal says what stands in the way.
func TestOwnerPasswordIsUsedNamedOrNotNeeded(t *testing.T) {
	for name, auth := range map[string]tpm.Auth{"persistent key": {}, "given": {Owner: []byte("owner")}, "missing": {}} {
		g := newGateway(t, release("1"))
		g.do(func(c *tpm.Chip) error {
			if name == "persistent key" {
				primary, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
				if err != nil {
					return err
				}
				_, err = tpm2.EvictControl{
					Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name},
					PersistentHandle: 0x81000001,
				}.Execute(c)
				if err != nil {
					return err
				}
				c.Flush(primary.ObjectHandle)
			}
			_, err := tpm2.HierarchyChangeAuth{
				AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
				NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("owner")},
			}.Execute(c)
			return err
		})
		g.auth = auth
		g.reconnect() // this connection knows the storage key
		blob, err := seal.Seal(context.Background(), g.chip, []byte("the secret"), g.policy(1))
		switch {
		case name == "missing":
			if !errors.Is(err, tpm.ErrPolicy) || !strings.Contains(err.Error(), "password") {
				t.Errorf("owner password set: %v", err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		default:
			g.opens(blob, g.approve(1, release("1")))
			g.boot(release("1"))
			g.opens(blob, g.approve(1, release("1")))
		}
	}
}

// TestPCRThatChangesMeanwhileIsTriedAgain: the kernel may extend PCR 10 at any moment.
func TestPCRThatChangesMeanwhileIsTriedAgain(t *testing.T) {
	g := newGateway(t, release("1"))
	blob, signed := g.seal(g.policy(1)), g.approve(1, release("1"))
	g.faults.On(tpm2.TPMCCUnseal, 2, tpmtest.ResponseCode(tpm2.TPMRCPCRChanged))
	g.opens(blob, signed)
	g.faults.On(tpm2.TPMCCUnseal, -1, tpmtest.ResponseCode(tpm2.TPMRCPCRChanged))
	g.shut(blob, signed, "pcr")
}
