package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newVault(t *testing.T, passphrase, rootPassphrase string) *Vault {
	t.Helper()
	v := &Vault{Dir: filepath.Join(t.TempDir(), "ca")}
	if passphrase != "" {
		v.Passphrase = []byte(passphrase)
	}
	if rootPassphrase != "" {
		v.RootPassphrase = []byte(rootPassphrase)
	}
	if err := v.Init(testFleet, start()); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *Vault) open(t *testing.T) *CA {
	t.Helper()
	c, err := v.Open()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rootKeyOf(v *Vault) string { return filepath.Join(v.Dir, "root.key") }

func TestRolloverCutsNobodyOff(t *testing.T) {
	t.Parallel()
	v := newVault(t, "", "")
	before := v.open(t)
	made, err := v.Rollover(rootKeyOf(v), false, start(), devices, services)
	if err != nil || fmt.Sprint(made) != "[devices-2 services-2]" {
		t.Fatalf("made %v, %v", made, err)
	}
	after := v.open(t)
	if !bytes.Equal(before.Anchors(), after.Anchors()) {
		t.Error("the anchor changed")
	}
	// Old certificates and new ones are good for who knows the anchor alone, and
	// come from intermediates that the doors take.
	for p, identity := range identities() {
		for _, c := range []*CA{before, after} {
			leaf, chain := issue(t, c, p, identity)
			if err := verify(after, leaf, chain, x509.ExtKeyUsageClientAuth, ""); err != nil {
				t.Errorf("%s: %v", p, err)
			}
			if !after.Issued(p, leaf) {
				t.Errorf("%s: its issuer is not known any more", p)
			}
		}
	}
	leaf, _ := issue(t, after, Full, testDevice)
	if leaf.Issuer.CommonName != "test devices-2" || before.Issued(Full, leaf) || after.Issued(Quarantine, leaf) || after.Issued(Service, leaf) {
		t.Errorf("issuer %s", leaf.Issuer)
	}
	if n := len(after.Certificates()); n != 6 {
		t.Errorf("%d certificates for /cacerts", n)
	}
	for range 3 {
		if _, err := v.Rollover(rootKeyOf(v), false, start()); err != nil {
			t.Fatal(err)
		}
	}
	if c := v.open(t); len(c.Certificates()) > 8 || len(c.Issuers(Full)) != 5 || c.current(devices).file != "devices-5" {
		t.Errorf("%d certificates for /cacerts, generation %s", len(c.Certificates()), c.current(devices).file)
	}
	// Four years on, all but the newest have expired soon after.
	if _, err := v.Rollover(rootKeyOf(v), false, start().Add(intermediateLife+time.Hour), devices); err != nil {
		t.Fatal(err)
	}
	if c := v.open(t); len(c.Issuers(Full)) != 1 || c.Chain(Full)[0].NotAfter.After(c.root.NotAfter) {
		t.Errorf("%d generations, until %s", len(c.Issuers(Full)), c.Chain(Full)[0].NotAfter)
	}
}

func TestStolenIntermediateIsDroppedAtOnce(t *testing.T) {
	t.Parallel()
	v := newVault(t, "", "")
	before := v.open(t)
	leaf, _ := issue(t, before, Full, testDevice)
	if _, err := v.Rollover(rootKeyOf(v), true, start(), devices); err != nil {
		t.Fatal(err)
	}
	after := v.open(t)
	if after.Issued(Full, leaf) || len(after.Issuers(Full)) != 1 {
		t.Error("a certificate of the stolen intermediate is good")
	}
	other, _ := issue(t, before, Quarantine, identities()[Quarantine])
	if !after.Issued(Quarantine, other) {
		t.Error("another intermediate was dropped too")
	}
}

func TestRolloverWantsThisRootsKey(t *testing.T) {
	t.Parallel()
	v, other := newVault(t, "", ""), newVault(t, "", "")
	for name, c := range map[string]struct {
		key   string
		which string
	}{
		"another root's": {rootKeyOf(other), devices}, "missing": {filepath.Join(v.Dir, "nowhere"), devices},
		"an intermediate's": {filepath.Join(v.Dir, "devices.key"), devices}, "unknown intermediate": {rootKeyOf(v), "gateways"},
	} {
		if made, err := v.Rollover(c.key, false, start(), c.which); err == nil {
			t.Errorf("%s: made %v", name, made)
		}
	}
	if c := v.open(t); len(c.Issuers(Full, Quarantine, Service)) != 3 {
		t.Error("a refusal made an intermediate")
	}
}

func TestInitAndRolloverAreWholeOrNothingAtEveryWrite(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	step := 7 // in full, each op of some fifty
	if os.Getenv("GATEWARDEN_LONG") != "" {
		step = 1
	}
	for n := 1; ; n += step { // fail the n-th op
		v := &Vault{Dir: filepath.Join(t.TempDir(), "ca")}
		count := 0
		v.FS.Hook = func(string, string) error {
			if count++; count == n {
				return full
			}
			return nil
		}
		err := v.Init(testFleet, start())
		if err == nil {
			break // fewer ops than n
		}
		if !errors.Is(err, full) {
			t.Fatalf("op %d: %v", n, err)
		}
		v.FS.Hook = nil
		if err := v.Init(testFleet, start()); err != nil && !errors.Is(err, ErrExists) {
			t.Fatalf("again after op %d: %v", n, err)
		}
		v.open(t)
	}
	for n := 1; ; n += step {
		v := newVault(t, "", "")
		count := 0
		v.FS.Hook = func(string, string) error {
			if count++; count == n {
				return full
			}
			return nil
		}
		_, err := v.Rollover(rootKeyOf(v), false, start())
		v.FS.Hook = nil
		c := v.open(t) // the old or the new, never half
		for p, identity := range identities() {
			issue(t, c, p, identity)
		}
		if err == nil {
			break
		}
		if len(c.Issuers(Full, Quarantine, Service)) == 3 {
			if _, err := v.Rollover(rootKeyOf(v), false, start()); err != nil {
				t.Fatalf("again after op %d: %v", n, err)
			}
		}
		if c := v.open(t); c.current(services).file != "services-2" {
			t.Errorf("op %d: %s", n, c.current(services).file)
		}
	}
}

func TestKeysAtRestAreEncryptedAndOpenByTheirPassphraseAlone(t *testing.T) {
	t.Parallel()
	v := newVault(t, "open sesame", "root word")
	issue(t, v.open(t), Full, testDevice)
	for _, name := range []string{"root", "devices", "quarantine", "services"} {
		data, err := os.ReadFile(filepath.Join(v.Dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		if block, _ := pem.Decode(data); block == nil || block.Type != "ENCRYPTED PRIVATE KEY" {
			t.Errorf("%s.key is in the clear", name)
		}
	}
	for name, wrong := range map[string]*Vault{"none": {Dir: v.Dir}, "another": {Dir: v.Dir, Passphrase: []byte("open sesam")}, "empty": {Dir: v.Dir, Passphrase: []byte{}}} {
		if _, err := wrong.Open(); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (&Vault{Dir: v.Dir, Passphrase: v.Passphrase}).Rollover(rootKeyOf(v), false, start()); !errors.Is(err, ErrPassphrase) {
		t.Errorf("the root's key opened: %v", err)
	}
	if _, err := v.Rollover(rootKeyOf(v), false, start(), devices); err != nil {
		t.Error(err)
	}
	issue(t, v.open(t), Full, testDevice)
}

func TestKeysInTheClearAreEncryptedLaterAndRefusedUntilThen(t *testing.T) {
	t.Parallel()
	v := newVault(t, "", "")
	want, _ := issue(t, v.open(t), Full, testDevice)
	v.Passphrase = []byte("open sesame")
	if _, err := v.Open(); err == nil || !strings.Contains(err.Error(), "ca encrypt") {
		t.Errorf("a key in the clear behind a passphrase: %v", err)
	}
	writes := 0
	v.FS.Hook = func(op, path string) error {
		if writes++; writes > 8 { // in the middle
			return errors.New("power")
		}
		return nil
	}
	if err := v.Encrypt(); err == nil {
		t.Fatal("the power cut was not noticed")
	}
	v.FS.Hook = nil
	if err := v.Encrypt(); err != nil {
		t.Fatal(err)
	}
	if c := v.open(t); !c.Issued(Full, want) {
		t.Error("the keys are others")
	}
	if err := (&Vault{Dir: v.Dir}).Encrypt(); err == nil {
		t.Error("encrypted without a passphrase")
	}
}

func TestOpenSSLReadsOurEncryptedKeysAndWeItsOwn(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: the comparison with it was not made")
	}
	v := newVault(t, "open sesame", "")
	key := filepath.Join(v.Dir, "devices.key")
	if out, err := exec.CommandContext(t.Context(), path, "pkey", "-in", key, "-passin", "pass:open sesame", "-noout", "-check").CombinedOutput(); err != nil {
		t.Errorf("openssl pkey: %v\n%s", err, out)
	}
	theirs := filepath.Join(v.Dir, "theirs.key")
	if out, err := exec.CommandContext(t.Context(), path, "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "1000",
		"-in", rootKeyOf(v), "-out", theirs, "-passout", "pass:x").CombinedOutput(); err != nil {
		t.Fatalf("openssl pkcs8: %v\n%s", err, out)
	}
	if err := os.Chmod(theirs, 0o600); err != nil {
		t.Fatal(err)
	}
	v.RootPassphrase = []byte("x")
	if _, err := v.Rollover(theirs, false, start(), quarantine); err != nil {
		t.Error(err)
	}
}

func FuzzEncryptedKeyNeverPanics(f *testing.F) {
	good, err := encryptKey([]byte("key"), []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		if plain, err := decryptKey(der, nil); err == nil {
			t.Errorf("opened without a passphrase: %x", plain)
		}
	})
}

func TestRecordThatNamesOtherFilesIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"outside":        `{"v":2,"fleet":"test","issuers":{"devices":["../devices"],"quarantine":["quarantine"],"services":["services"]}}`,
		"another's":      `{"v":2,"fleet":"test","issuers":{"devices":["services"],"quarantine":["quarantine"],"services":["services"]}}`,
		"none":           `{"v":2,"fleet":"test","issuers":{"devices":[],"quarantine":["quarantine"],"services":["services"]}}`,
		"no issuers":     `{"v":2,"fleet":"test"}`,
		"later":          `{"v":3,"fleet":"test"}`,
		"generation one": `{"v":2,"fleet":"test","issuers":{"devices":["devices-1"],"quarantine":["quarantine"],"services":["services"]}}`,
	} {
		v := newVault(t, "", "")
		if err := os.WriteFile(filepath.Join(v.Dir, recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Open(); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
