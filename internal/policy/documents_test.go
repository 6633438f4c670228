package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

func TestOperatorsDocumentIsRefusedWhole(t *testing.T) {
	for name, change := range map[string]func(*Operators){
		"version":                func(o *Operators) { o.Version = 2 },
		"no issued":              func(o *Operators) { o.Issued = time.Time{} },
		"no fleet":               func(o *Operators) { o.Fleet = "" },
		"upper case fleet":       func(o *Operators) { o.Fleet = "Acme" },
		"malformed verb":         func(o *Operators) { o.Verbs["Reboot now"] = o.Verbs[VerbReboot] },
		"unknown person":         func(o *Operators) { o.Verbs[VerbPing] = Grant{People: []string{"dora"}, Threshold: 1} },
		"person named twice":     func(o *Operators) { o.Verbs[VerbPing] = Grant{People: []string{"ben", "ben"}, Threshold: 2} },
		"threshold 0":            func(o *Operators) { o.Verbs[VerbPing] = Grant{People: []string{"ben"}} },
		"threshold -1":           func(o *Operators) { o.Verbs[VerbPing] = Grant{People: []string{"ben"}, Threshold: -1} },
		"threshold above people": func(o *Operators) { o.Verbs[VerbPing] = Grant{People: []string{"ben"}, Threshold: 2} },
		"nobody":                 func(o *Operators) { o.Verbs[VerbPing] = Grant{} },
		"person listed twice":    func(o *Operators) { o.People[2].Name = "ben" },
		"person's name":          func(o *Operators) { o.People[2].Name = "cleo, ben" },
		"no keys":                func(o *Operators) { o.People[2].Keys = nil },
		"key of two people":      func(o *Operators) { o.People[2].Keys = o.People[1].Keys },
		"key of two, other remark": func(o *Operators) {
			o.People[2].Keys = []string{strings.TrimSuffix(o.People[1].Keys[0], "comment") + "me"}
		},
		"key twice": func(o *Operators) { o.People[2].Keys = append(o.People[2].Keys, o.People[2].Keys...) },
		"bad key":   func(o *Operators) { o.People[2].Keys = []string{"ssh-ed25519 AAAA"} },
	} {
		o := document(t)
		change(&o)
		if _, err := ParseOperators(encode(t, o)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseOperators([]byte(strings.Repeat(" ", MaxDocument+1))); err == nil {
		t.Error("too long: accepted")
	}
}

func TestVerbOfALaterReleaseDoesNotHideTheRestOfTheDocument(t *testing.T) {
	o := document(t)
	o.Verbs["teleport"] = o.Verbs[VerbReboot]
	got, err := ParseOperators(encode(t, o))
	if err != nil || len(got.People) != len(o.People) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func certificate(t testing.TB, ca bool) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: now(), IsCA: ca, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func fleetDocument(t testing.TB) Fleet {
	t.Helper()
	return Fleet{
		Version: 1, Issued: now(), Fleet: fleet, API: []string{"https://fleet.example.org:8443", "https://[::1]:8443"},
		Broker: []string{"mqtts://192.0.2.1:8883"}, Anchors: []string{certificate(t, true)}, MessageKeys: [][]byte{make([]byte, 32)},
	}
}

func TestFleetDocument(t *testing.T) {
	f, err := ParseFleet(encode(t, fleetDocument(t)))
	if err != nil || f.Fleet != fleet || len(f.API) != 2 {
		t.Fatalf("%+v, %v", f, err)
	}
	leaf := certificate(t, false)
	for name, change := range map[string]func(*Fleet){
		"version":       func(f *Fleet) { f.Version = 0 },
		"no issued":     func(f *Fleet) { f.Issued = time.Time{} },
		"no api":        func(f *Fleet) { f.API = nil },
		"plain http":    func(f *Fleet) { f.API[0] = "http://fleet.example.org:80" },
		"no port":       func(f *Fleet) { f.API[0] = "https://fleet.example.org" },
		"port 0":        func(f *Fleet) { f.API[0] = "https://fleet.example.org:0" },
		"path":          func(f *Fleet) { f.API[0] += "/v1" },
		"user":          func(f *Fleet) { f.API[0] = "https://me@fleet.example.org:8443" },
		"no host":       func(f *Fleet) { f.API[0] = "https://:8443" },
		"address twice": func(f *Fleet) { f.API[1] = f.API[0] },
		"plain mqtt":    func(f *Fleet) { f.Broker[0] = "mqtt://192.0.2.1:1883" },
		"leaf anchor":   func(f *Fleet) { f.Anchors[0] = leaf },
		"two in one":    func(f *Fleet) { f.Anchors[0] += f.Anchors[0] },
		"garbage":       func(f *Fleet) { f.Anchors[0] = "anchor" },
		"no keys":       func(f *Fleet) { f.MessageKeys = nil },
		"short key":     func(f *Fleet) { f.MessageKeys[0] = make([]byte, 31) },
	} {
		f := fleetDocument(t)
		change(&f)
		if _, err := ParseFleet(encode(t, f)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseOperators(f *testing.F) {
	f.Add(encode(f, document(f)))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseOperators(data)
		if err != nil {
			return
		}
		if _, err := ParseOperators(encode(t, o)); err != nil {
			t.Errorf("does not survive a round trip: %v", err)
		}
	})
}

func FuzzParseFleet(f *testing.F) {
	f.Add(encode(f, fleetDocument(f)))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := ParseFleet(data)
		if err != nil {
			return
		}
		if _, err := ParseFleet(encode(t, doc)); err != nil {
			t.Errorf("does not survive a round trip: %v", err)
		}
	})
}
