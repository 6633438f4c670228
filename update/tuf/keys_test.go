package tuf_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
)

func publicPEM(t *testing.T, kind string, public crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// modulus returns an RSA key of so many bits that nobody has the other half of.
func modulus(bits int) *rsa.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return &rsa.PublicKey{N: n.Add(n, big.NewInt(12345)), E: 65537}
}

func TestKeyKindsAndSizes(t *testing.T) {
	curve := func(c elliptic.Curve) crypto.PublicKey {
		private, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return private.Public()
	}
	const p256, pss, plain = "ecdsa-sha2-nistp256", "rsassa-pss-sha256", "PUBLIC KEY"
	good := publicPEM(t, plain, curve(elliptic.P256()))
	for name, c := range map[string]struct {
		kind, scheme, value string
		good                bool
	}{
		"P-256":                     {"ecdsa", p256, good, true},
		"P-256 by its other name":   {p256, p256, good, true},
		"P-384 called P-256":        {"ecdsa", p256, publicPEM(t, plain, curve(elliptic.P384())), false},
		"RSA called P-256":          {"ecdsa", p256, publicPEM(t, plain, modulus(2048)), false},
		"P-256 called RSA":          {"rsa", pss, good, false},
		"RSA of 2048 bits":          {"rsa", pss, publicPEM(t, plain, modulus(2048)), true},
		"RSA of 2047 bits":          {"rsa", pss, publicPEM(t, plain, modulus(2047)), false},
		"RSA of 8192 bits":          {"rsa", pss, publicPEM(t, plain, modulus(8192)), true},
		"RSA of 8193 bits":          {"rsa", pss, publicPEM(t, plain, modulus(8193)), false},
		"RSA of 1,000,000 bits":     {"rsa", pss, publicPEM(t, plain, modulus(1_000_000)), false},
		"another PEM block":         {"ecdsa", p256, publicPEM(t, "EC PUBLIC KEY", curve(elliptic.P256())), false},
		"text behind the PEM block": {"ecdsa", p256, good + "x", false},
		"two PEM blocks":            {"ecdsa", p256, good + good, false},
		"PEM cut off":               {"ecdsa", p256, good[:len(good)-30], false},
		"nothing":                   {"ecdsa", p256, "", false},
		"scheme of another kind":    {"rsa", p256, "anything", true}, // unknown: counts for nothing
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.repo.Edit = func(role string, signed tree) {
				if role == "root" {
					at(signed, "keys")["x"] = tree{"keytype": c.kind, "scheme": c.scheme, "keyval": tree{"public": c.value}}
				}
			}
			d.repo.Publish("root")
			if c.good {
				d.good()
			} else {
				d.refused("root", "format")
			}
		})
	}
}

func TestHostileTimestampAndSnapshotAreRefused(t *testing.T) {
	entry := func(key string, value any) func(tree, string) {
		return func(f tree, name string) { at(f, "meta", name)[key] = value }
	}
	for name, edit := range map[string]func(f tree, name string){
		"no meta":            func(f tree, _ string) { delete(f, "meta") },
		"version 0":          entry("version", 0),
		"version below 0":    entry("version", -1),
		"version is a text":  entry("version", "1"),
		"version above 2^63": entry("version", json.Number("9223372036854775808")),
		"length below 0":     entry("length", -1),
		"length is a text":   entry("length", "1"),
		"hashes is an array": entry("hashes", []any{}),
		"no known hash":      entry("hashes", tree{"md5": "00"}),
		"entry is null":      func(f tree, name string) { at(f, "meta")[name] = nil },
	} {
		for role, about := range map[string]string{"timestamp": "snapshot.json", "snapshot": "targets.json"} {
			t.Run(role+" "+name, func(t *testing.T) {
				d := newDevice(t)
				beyond := name == "version above 2^63" // can't be signed
				d.repo.Edit = func(r string, signed tree) {
					if r == role && !beyond {
						edit(signed, about)
					}
				}
				d.repo.Publish("snapshot", "timestamp")
				if beyond {
					d.repo.Alter(role, func(f tree) { edit(at(f, "signed"), about) })
				}
				d.refused(role, "format", "timestamp")
			})
		}
	}
	d := newDevice(t)
	d.repo.Edit = func(_ string, signed tree) { signed["meta"] = tree{"other.json": tree{"version": 1}} }
	d.repo.Publish("timestamp")
	d.refused("timestamp", "format")
	d = newDevice(t)
	d.repo.Edit = func(_ string, signed tree) { signed["meta"] = tree{} }
	d.repo.Publish("snapshot")
	d.repo.Edit = nil
	d.repo.Publish("timestamp")
	d.refused("targets", "version", "timestamp", "snapshot")
}
