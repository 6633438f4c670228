package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	testFleet  = "test"
	testDevice = "gw-abcdefghijklmnop"
)

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func newCA(t *testing.T) (*CA, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := Init(dir, testFleet, start()); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func testKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issue(t *testing.T, c *CA, p Profile, identity string, names ...string) (*x509.Certificate, []*x509.Certificate) {
	t.Helper()
	leaf, chain, err := c.Issue(p, identity, testKey(t, elliptic.P256()).Public(), start(), 24*time.Hour, names...)
	if err != nil {
		t.Fatal(err)
	}
	return leaf, chain
}

// identities is one of each profile.
func identities() map[Profile]string {
	return map[Profile]string{Full: testDevice, Short: testDevice, Quarantine: wire.QuarantineID(testDevice), Service: wire.FleetIdentity}
}

func verify(c *CA, leaf *x509.Certificate, chain []*x509.Certificate, usage x509.ExtKeyUsage, host string) error {
	pool := x509.NewCertPool()
	for _, i := range chain {
		pool.AddCert(i)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.Roots(), Intermediates: pool, CurrentTime: start(), KeyUsages: []x509.ExtKeyUsage{usage}, DNSName: host})
	return err
}

func TestEachProfileIsGoodForItsPurposeOnly(t *testing.T) {
	c, _ := newCA(t)
	for p, identity := range identities() {
		leaf, chain := issue(t, c, p, identity)
		if leaf.Subject.CommonName != identity || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "urn:gatewarden:test:"+identity {
			t.Errorf("%s: subject %s, URIs %v", p, leaf.Subject, leaf.URIs)
		}
		if !leaf.NotBefore.Equal(start().Add(-5*time.Minute)) || !leaf.NotAfter.Equal(start().Add(24*time.Hour)) || len(leaf.SerialNumber.Text(16)) != 32 {
			t.Errorf("%s: %s to %s, serial %x", p, leaf.NotBefore, leaf.NotAfter, leaf.SerialNumber)
		}
		if err := verify(c, leaf, chain, x509.ExtKeyUsageClientAuth, ""); err != nil {
			t.Errorf("%s as client: %v", p, err)
		}
		if err := verify(c, leaf, chain, x509.ExtKeyUsageServerAuth, ""); (err == nil) != (p == Service) {
			t.Errorf("%s as server: %v", p, err)
		}
	}
	leaf, chain := issue(t, c, Service, wire.FleetIdentity, "localhost", "127.0.0.1", "::1")
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		if err := verify(c, leaf, chain, x509.ExtKeyUsageServerAuth, host); err != nil {
			t.Errorf("service at %s: %v", host, err)
		}
	}
}

func TestNoProfileCarriesAnothersIdentity(t *testing.T) {
	c, _ := newCA(t)
	key := testKey(t, elliptic.P256()).Public()
	own := identities()
	for p := range own {
		for other, identity := range own {
			_, _, err := c.Issue(p, identity, key, start(), time.Hour)
			if (err == nil) != (own[p] == identity) {
				t.Errorf("%s with the identity of %s: %v", p, other, err)
			}
		}
		for _, identity := range []string{"", "gw-", "q-fleet-x", "gw-ABCDEFGHIJKLMNOP"} {
			if _, _, err := c.Issue(p, identity, key, start(), time.Hour); err == nil && p != Service {
				t.Errorf("%s carries %q", p, identity)
			}
		}
	}
	if _, _, err := c.Issue(Full, testDevice, key, start(), time.Hour, "fleet.example"); err == nil {
		t.Error("a device got a host name")
	}
	if _, _, err := c.Issue(Full, testDevice, testKey(t, elliptic.P384()).Public(), start(), time.Hour); err == nil {
		t.Error("a P-384 key was certified")
	}
	if _, _, err := c.Issue(Full, testDevice, key, start(), 0); err == nil {
		t.Error("a certificate without life")
	}
}

func TestLeafNeverOutlivesItsIssuer(t *testing.T) {
	c, _ := newCA(t)
	key := testKey(t, elliptic.P256()).Public()
	leaf, chain, err := c.Issue(Full, testDevice, key, start(), 20*365*24*time.Hour)
	if err != nil || !leaf.NotAfter.Equal(chain[0].NotAfter) {
		t.Errorf("leaf until %v: %v", leaf.NotAfter, err)
	}
	if _, _, err := c.Issue(Full, testDevice, key, start().Add(6*365*24*time.Hour), time.Hour); err == nil {
		t.Error("an expired intermediate issued")
	}
}

func TestStolenDeviceIntermediateMakesNoServer(t *testing.T) {
	c, _ := newCA(t)
	by := c.current(devices)
	template, err := c.leaf("fleet.example", testKey(t, elliptic.P256()).Public(), start(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	template.DNSNames, template.ExtKeyUsage = []string{"fleet.example"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	forged, err := sign(template, by, testKey(t, elliptic.P256()).Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(c, forged, []*x509.Certificate{by.cert}, x509.ExtKeyUsageServerAuth, "fleet.example"); err == nil {
		t.Error("accepted as a server")
	}
	sub := authority(testFleet, "sub", start(), time.Hour)
	sub.SerialNumber = forged.SerialNumber
	subKey := testKey(t, elliptic.P256())
	subCert, err := sign(sub, by, subKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	below, err := sign(template, issuer{"sub", subCert, subKey}, subKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(c, below, []*x509.Certificate{by.cert, subCert}, x509.ExtKeyUsageClientAuth, ""); err == nil {
		t.Error("a certificate below a sub-authority was accepted")
	}
}

func TestServingNeedsNoRootKey(t *testing.T) {
	c, dir := newCA(t)
	if err := os.Remove(filepath.Join(dir, "root.key")); err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue(t, again, Full, testDevice)
	if !bytes.Equal(again.Anchors(), c.Anchors()) || again.Fleet() != testFleet || len(again.Certificates()) != 4 {
		t.Error("another authority was opened")
	}
}

func TestCAOnDiskIsJudged(t *testing.T) {
	_, dir := newCA(t)
	if err := Init(dir, testFleet, start()); !errors.Is(err, ErrExists) {
		t.Errorf("a second authority over the first: %v", err)
	}
	for _, name := range []string{"root.key", "devices.key", "quarantine.key", "services.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	_, other := newCA(t)
	for name, damage := range map[string]func(dir string) error{
		"a key that all can read": func(d string) error { return os.Chmod(filepath.Join(d, "devices.key"), 0o640) },
		"another CA's key":        func(d string) error { return copyFile(other, d, "devices.key") },
		"another CA's certificate": func(d string) error {
			return errors.Join(copyFile(other, d, "devices.pem"), copyFile(other, d, "devices.key"))
		},
		"half a key":        func(d string) error { return os.Truncate(filepath.Join(d, "services.key"), 60) },
		"an empty file":     func(d string) error { return os.Truncate(filepath.Join(d, "root.pem"), 0) },
		"no record (power)": func(d string) error { return os.Remove(filepath.Join(d, recordFile)) },
	} {
		t.Run(name, func(t *testing.T) {
			_, dir := newCA(t)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil {
				t.Error("opened")
			}
		})
	}
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil {
		t.Fatal(err)
	}
	if err := Init(dir, testFleet, start()); err != nil {
		t.Errorf("an interrupted Init could not be repeated: %v", err)
	}
}

func copyFile(from, to, name string) error {
	data, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name), data, 0o600)
}

func TestOpenSSLAcceptsChainsAndRevocations(t *testing.T) {
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: the comparison with it was not made")
	}
	c, dir := newCA(t)
	openssl := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	write := func(name string, block *pem.Block) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := "1772366400" // start, for -attime
	for p, identity := range identities() {
		leaf, chain := issue(t, c, p, identity)
		write("leaf.pem", &pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
		write("chain.pem", &pem.Block{Type: "CERTIFICATE", Bytes: chain[0].Raw})
		base := []string{"verify", "-x509_strict", "-attime", at, "-CAfile", "root.pem", "-untrusted", "chain.pem"}
		if out, err := openssl(append(base, "-purpose", "sslclient", "leaf.pem")...); err != nil {
			t.Errorf("%s as client: %v\n%s", p, err, out)
		}
		if out, err := openssl(append(base, "-purpose", "sslserver", "leaf.pem")...); (err == nil) != (p == Service) {
			t.Errorf("%s as server: %v\n%s", p, err, out)
		}
		for _, revoked := range []bool{false, true} {
			entries := []Entry{{Serial: "abcd", At: start()}}
			if revoked {
				entries = append(entries, Entry{Serial: leaf.SerialNumber.Text(16), At: start()})
			}
			der, err := c.CRL(chain[0], List{Revoked: entries, Now: start(), Life: 24 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			write("crl.pem", &pem.Block{Type: "X509 CRL", Bytes: der})
			if out, err := openssl("crl", "-in", "crl.pem", "-noout", "-text", "-CAfile", "chain.pem"); err != nil || !strings.Contains(out, "ABCD") || !strings.Contains(out, "verify OK") {
				t.Errorf("%s: openssl crl: %v\n%s", p, err, out)
			}
			out, err := openssl(append(base, "-crl_check", "-CRLfile", "crl.pem", "leaf.pem")...)
			if (err == nil) == revoked {
				t.Errorf("%s, revoked %v: %v\n%s", p, revoked, err, out)
			}
		}
	}
	if _, err := c.CRL(c.Chain(Full)[0], List{Revoked: []Entry{{Serial: "no hex"}}, Now: start(), Life: time.Hour}); err == nil {
		t.Error("a serial that is no number was listed")
	}
}
