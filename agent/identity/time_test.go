package identity

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Whatever the clock says when the agent starts, the device ends with a certificate
// that works, and does not renew without end.
func startsAt(t *testing.T, offset time.Duration) {
	t.Parallel()
	w := newWorld(t, nil)
	g, _ := w.enrolled()
	floor := g.clock.floor
	g.clock.set(offset, false)
	i := g.start()
	g.step(i, "test")
	c, ok := i.Current()
	if !ok || time.Now().After(c.Leaf().NotAfter) {
		t.Fatal("the device has no good certificate")
	}
	if wait := i.untilDue(); wait < 30*time.Minute {
		t.Errorf("the device will renew again in %s", wait)
	}
	g.step(i, "")
	if serial(i) != c.Serial() {
		t.Error("the device renews what it was just issued")
	}
	w.must(g.fs.Remove(filepath.Join(g.dir, currentFile)))
	i = g.start()
	g.step(i, "")
	if serial(i) == "" {
		t.Error("the device does not recover by EK and AK")
	}
	if !g.clock.Floor().Equal(floor) {
		t.Error("the floor moved")
	}
}

func TestClockAt1970StrandsNobody(t *testing.T) { startsAt(t, time.Until(time.Unix(0, 0))) }

func TestClockTenYearsAheadStrandsNobody(t *testing.T) { startsAt(t, 10*365*24*time.Hour) }

func TestClockAYearBehindStrandsNobody(t *testing.T) { startsAt(t, -365*24*time.Hour) }

// The clock jumps while the agent runs, believed or not. What a lying time source
// delays comes when it stops lying.
func TestClockThatJumpsInTheMiddleStrandsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	old := serial(i)
	year := 365 * 24 * time.Hour
	for _, jump := range []time.Duration{-56 * year, 10 * year, -year, 8 * 24 * time.Hour, 0} {
		for _, believed := range []bool{false, true} {
			g.clock.set(jump, believed)
			g.step(i, "")
			if serial(i) != old {
				t.Errorf("%s ahead: renewed at once", jump)
			}
		}
	}
	g.clock.set(10*year, true)
	if _, err := i.step(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("with a time source that lies: %v", err)
	}
	i = g.start()
	if _, err := i.step(t.Context(), ""); err == nil || serial(i) != old {
		t.Errorf("after a start with it: %v, certificate %s", err, serial(i))
	}
	g.clock.set(0, true)
	g.step(i, "test")
	if serial(i) == old {
		t.Error("the device does not renew when the clock is right again")
	}
}

// steal signs with the fleet's own key what the fleet's CA would refuse to.
func (w *world) steal(rw http.ResponseWriter, r *http.Request, identity string, from, until time.Time) {
	csr, err := est.ReadCSR(r, wire.MaxBody)
	w.must(err)
	block := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(w.settings.State, "ca", name))
		w.must(err)
		b, _ := pem.Decode(data)
		return b.Bytes
	}
	issuer, err := x509.ParseCertificate(block("devices.pem"))
	w.must(err)
	key, err := x509.ParsePKCS8PrivateKey(block("devices.key"))
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: identity}, NotBefore: from, NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, csr.PublicKey, key)
	w.must(err)
	leaf, err := x509.ParseCertificate(der)
	w.must(err)
	w.must(est.WriteCertsOnly(rw, []*x509.Certificate{leaf, issuer}))
}

// A stolen fleet server claims that it is 2090, and issues certificates that nobody
// would renew in this life. When the true server is back, so is the device.
func TestFleetServerThatClaims2090StrandsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g, i := w.enrolled()
	g.clock.set(0, false)
	floor := g.clock.Floor()
	var from, until time.Time
	thief := w.front(func(rw http.ResponseWriter, r *http.Request, fleet http.Handler) {
		switch r.URL.Path {
		case wire.PathSimpleEnroll, wire.PathSimpleReenroll:
			w.steal(rw, r, i.Device(), from, until)
		case wire.PathCACerts:
			w.must(est.WriteCACerts(rw, w.authority().Certificates()))
		default:
			fleet.ServeHTTP(rw, r)
		}
	})
	in2090 := time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name        string
		from, until time.Time
		taken       bool
	}{
		{"of 2090", in2090, in2090.AddDate(0, 0, 7), false},
		{"until 2090", time.Now(), in2090, false},
		{"for four years", time.Now(), time.Now().AddDate(4, 0, 0), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, until = c.from, c.until
			w.must(g.fs.Remove(filepath.Join(g.dir, currentFile)))
			i = g.start()
			g.fleet.API = []string{thief}
			if _, err := i.step(t.Context(), ""); (err == nil) != c.taken {
				t.Fatalf("error %v", err)
			}
			if c.taken && due(i.current.Leaf(), age{wall: time.Now(), counted: mostLife}) == "" {
				t.Error("the certificate is kept for years")
			}
			g.fleet.API = w.settings.Public.API
			g.step(i, "the broker refuses this identity")
			if c, ok := i.Current(); !ok || time.Until(c.Leaf().NotAfter) > 8*24*time.Hour || i.prove(t.Context(), &c) != nil {
				t.Error("with the true server back the device has no good certificate")
			}
			if !g.clock.Floor().Equal(floor) {
				t.Error("the floor moved")
			}
		})
	}
}
