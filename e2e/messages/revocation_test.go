package messages

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/revocation"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const other = "gw-bbbbbbbbbbbbbbbb"

// authority is the fleet's CA with its registry and its lists, and a mosquitto
// that is set up as docs/ca.md says.
type authority struct {
	*testing.T
	dir    string
	ca     *ca.CA
	store  *registry.Store
	lists  string // URL
	broker *mosquitto
}

func newAuthority(t *testing.T, path string) *authority {
	t.Helper()
	a := &authority{T: t, dir: t.TempDir()}
	vault := &ca.Vault{Dir: filepath.Join(a.dir, "ca")}
	a.must(vault.Init("lab", time.Now()))
	_, err := vault.Rollover(filepath.Join(vault.Dir, "root.key"), false, time.Now()) // lists of two generations
	a.must(err)
	a.ca, err = vault.Open()
	a.must(err)
	a.store, err = registry.OpenSQLite(filepath.Join(a.dir, "registry.db"))
	a.must(err)
	t.Cleanup(func() { a.store.Close() })
	h, err := revocation.New(revocation.Config{CA: a.ca, Registry: a.store, URL: "https://fleet.example:8443", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	a.must(err)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	a.lists = server.URL
	for _, id := range []string{device, other} {
		_, _, err := a.store.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte(id)})
		a.must(err)
		a.must(a.store.SetState(t.Context(), id, registry.Active, "olga", "", time.Now()))
	}
	a.broker = &mosquitto{path: path, dir: a.dir, address: freeAddress(t)}
	a.configure()
	a.broker.Start(t)
	t.Cleanup(func() { a.broker.Kill(t) })
	return a
}

func (a *authority) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

func (a *authority) write(name string, data []byte) {
	a.Helper()
	a.must(os.WriteFile(filepath.Join(a.dir, name), data, 0o600))
}

// configure writes what mosquitto reads.
func (a *authority) configure() {
	a.Helper()
	a.broker.configure(a.T)
	host, _, _ := net.SplitHostPort(a.broker.address)
	a.write("root.pem", a.ca.Anchors())
	own := a.issue(ca.Service, "broker", "", host)
	der, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	a.must(err)
	a.write("broker.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	var chain []byte
	for _, c := range own.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	a.write("broker.pem", chain)
	a.fetch()
}

// fetch is what a timer does: the lists, in one piece.
func (a *authority) fetch() {
	a.Helper()
	resp, err := http.Get(a.lists + revocation.PathCRL + "all.pem")
	a.must(err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	a.must(err)
	a.write("crl.pem.new", data)
	a.must(os.Rename(filepath.Join(a.dir, "crl.pem.new"), filepath.Join(a.dir, "crl.pem")))
}

func (a *authority) issue(p ca.Profile, identity, owner string, hosts ...string) tls.Certificate {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	leaf, chain, err := a.ca.Issue(p, identity, key.Public(), time.Now(), time.Hour, hosts...)
	a.must(err)
	if owner != "" {
		a.must(a.store.AddCertificate(a.Context(), registry.Certificate{
			Serial: leaf.SerialNumber.Text(16), Device: owner, Identity: identity, Profile: string(p), NotAfter: leaf.NotAfter, IssuedAt: time.Now(), DER: leaf.Raw,
		}, ""))
	}
	return tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw, chain[0].Raw}}
}

func (a *authority) client(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: a.ca.Roots(), Certificates: []tls.Certificate{cert}, ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}
}

// dial connects as the certificate's identity; with a client id of its own if given.
func (a *authority) dial(config *tls.Config, got chan mqttconn.Message) (*mqttconn.Conn, error) {
	c, err := mqttconn.Dial(a.Context(), mqttconn.Options{
		URL: a.broker.URL(), TLS: config, ClientID: config.Certificates[0].Leaf.Subject.CommonName, KeepAlive: 30 * time.Second, SessionExpiry: time.Hour,
		Timeout: time.Minute, MaxTopic: wire.MaxTopic, MaxPayload: wire.MaxBody, MaxPacket: wire.MaxMessage,
		OnMessage: func(m mqttconn.Message) { got <- m },
	})
	if err == nil {
		a.Cleanup(c.Close)
	}
	return c, err
}

func TestMosquittoRefusesWhatTheListNamesAndKeepsTopicsApart(t *testing.T) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		t.Skip("mosquitto is not installed: apt-get install mosquitto")
	}
	a := newAuthority(t, path)
	up, down := make(chan mqttconn.Message, 9), make(chan mqttconn.Message, 9)
	own, others := a.client(a.issue(ca.Full, device, device)), a.client(a.issue(ca.Full, other, other))
	fleet, err := a.dial(a.client(a.issue(ca.Service, wire.FleetIdentity, "")), up)
	a.must(err)
	a.must(fleet.Subscribe(t.Context(), wire.UpTopic("+", "+")))
	first, err := a.dial(own, down)
	a.must(err)
	second, err := a.dial(others, down)
	a.must(err)
	// The identity of the certificate decides, whatever the client says.
	for topic, allowed := range map[string]bool{wire.UpTopic(device, wire.KindHealth): true, wire.UpTopic(other, wire.KindHealth): false, wire.DownTopic(other, wire.KindCommand): false} {
		err := first.Publish(t.Context(), mqttconn.Message{Topic: topic, Payload: []byte(topic), QoS: 1})
		if (err == nil) != allowed {
			t.Errorf("publish on %s: %v", topic, err)
		}
	}
	select {
	case m := <-up:
		if m.Topic != wire.UpTopic(device, wire.KindHealth) {
			t.Errorf("the fleet got %s", m.Topic)
		}
	case <-time.After(time.Minute):
		t.Error("the fleet got nothing")
	}
	first.Close()
	resumed := false
	own.VerifyConnection = func(s tls.ConnectionState) error { resumed = s.DidResume; return nil }
	again, err := a.dial(own, down)
	a.must(err)
	if again.Close(); !resumed {
		t.Error("the ticket resumes nothing while the certificate is good: the test below proves little")
	}
	_, err = a.store.RevokeCertificates(t.Context(), device, "", "stolen", time.Now())
	a.must(err)
	until(t, "the list names it", func() bool {
		a.fetch()
		return a.listed(own.Certificates[0].Leaf)
	})
	a.must(a.broker.process.Process.Signal(syscall.SIGHUP))
	refused := 0
	until(t, "mosquitto refuses the revoked certificate", func() bool {
		c, err := a.dial(own, down)
		if err == nil {
			c.Close()
			refused = 0
			return false
		}
		refused++
		return refused == 3
	})
	// Nor is it let in without the tickets of before, which went with it so far.
	if c, err := a.dial(a.client(own.Certificates[0]), down); err == nil {
		c.Close()
		t.Error("the revoked certificate was let in without a ticket")
	}
	a.must(second.Publish(t.Context(), mqttconn.Message{Topic: wire.UpTopic(other, wire.KindHealth), Payload: []byte("well"), QoS: 1}))
}

// listed reports whether the fetched lists name cert.
func (a *authority) listed(cert *x509.Certificate) bool {
	a.Helper()
	data, err := os.ReadFile(filepath.Join(a.dir, "crl.pem"))
	a.must(err)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		a.must(err)
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return true
			}
		}
	}
	return false
}
