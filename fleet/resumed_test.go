package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// ticketHolder is a device whose connections resume TLS sessions.
type ticketHolder struct {
	id          string
	api, broker *tls.Config // at one address both would share one ticket
	resumed     atomic.Bool // the last connection was
}

func newTicketHolder(t *testing.T, srv *Server, id string) *ticketHolder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, chain, err := srv.ca.Issue(ca.Full, id, key.Public(), srv.now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = srv.store.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte(id)}); err == nil {
		err = srv.store.SetState(t.Context(), id, registry.Active, "olga", "test", srv.now())
	}
	if err == nil {
		err = srv.store.AddCertificate(t.Context(), registry.Certificate{
			Serial: leaf.SerialNumber.Text(16), Device: id, Identity: id, NotAfter: leaf.NotAfter, IssuedAt: srv.now(), DER: leaf.Raw,
		}, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &ticketHolder{id: id}
	config := func() *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: srv.ca.Roots(), ClientSessionCache: tls.NewLRUClientSessionCache(1),
			Certificates:     []tls.Certificate{{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw, chain[0].Raw}}},
			VerifyConnection: func(s tls.ConnectionState) error { d.resumed.Store(s.DidResume); return nil },
		}
	}
	d.api, d.broker = config(), config()
	return d
}

// askAPI makes a connection of its own.
func (d *ticketHolder) askAPI(srv *Server) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: d.api, DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Post("https://"+srv.api.Addr().String()+wire.PathChallenge, "application/json", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the API answers %s", resp.Status)
	}
	return nil
}

func (d *ticketHolder) askBroker(srv *Server) error {
	c, err := mqttconn.Dial(context.Background(), mqttconn.Options{
		URL: "mqtts://" + srv.mqtt.Addr().String(), TLS: d.broker, ClientID: d.id, KeepAlive: 30 * time.Second, SessionExpiry: time.Minute,
		Timeout: time.Minute, MaxTopic: wire.MaxTopic, MaxPayload: wire.MaxBody, MaxPacket: wire.MaxMessage, OnMessage: func(mqttconn.Message) {},
	})
	if err == nil {
		c.Close()
	}
	return err
}

// A ticket of before resumes no identity that has ended since: Go asks
// VerifyPeerCertificate on full handshakes only.
func TestResumedConnectionsAreCheckedLikeFullOnes(t *testing.T) {
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	srv, err := NewByClock(installed(t), "test", now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	store := srv.Store()
	doors := map[string]func(*ticketHolder, *Server) error{"API": (*ticketHolder).askAPI, "broker": (*ticketHolder).askBroker}
	for n, c := range []struct {
		name    string
		change  func(id string) error
		refused []string
	}{
		{"certificate revoked", func(id string) error {
			_, err := store.RevokeCertificates(t.Context(), id, "", "test", now())
			return err
		}, []string{"API", "broker"}},
		{"device revoked", func(id string) error {
			return store.SetState(t.Context(), id, registry.Revoked, "olga", "stolen", now())
		}, []string{"API", "broker"}},
		{"fallen to quarantine", func(id string) error {
			return store.SetState(t.Context(), id, registry.Quarantined, registry.Fleet, "test", now())
		}, []string{"broker"}},
		{"expired", func(string) error { ahead.Store(int64(2 * time.Hour)); return nil }, []string{"API", "broker"}},
	} {
		d := newTicketHolder(t, srv, "gw-"+strings.Repeat(string(rune('a'+n)), 16))
		for _, door := range c.refused {
			for _, resumes := range []bool{false, true} {
				if err := doors[door](d, srv); err != nil || d.resumed.Load() != resumes {
					t.Fatalf("%s, before: the %s says %v, resumed: %v", c.name, door, err, d.resumed.Load())
				}
			}
		}
		if err := c.change(d.id); err != nil {
			t.Fatal(err)
		}
		for _, door := range c.refused {
			if err := doors[door](d, srv); err == nil {
				t.Errorf("%s: the %s takes it (resumed: %v)", c.name, door, d.resumed.Load())
			}
			if c.name != "expired" && !d.resumed.Load() { // of an expired one no ticket is taken at all
				t.Errorf("%s: the %s did not resume: this proves little", c.name, door)
			}
		}
	}
}
