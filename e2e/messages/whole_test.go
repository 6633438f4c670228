package messages

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/revocation"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/sshsig/sshsigtest"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// shortDir is a folder whose path leaves room for the names of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// bootGateway makes a machine with a TPM, boots it and starts its helper.
func bootGateway(t *testing.T, dir, trust string) *rig.Gateway {
	t.Helper()
	if _, err := exec.LookPath("swtpm_setup"); err != nil {
		t.Fatal("swtpm_setup is missing: `make setup` installs it")
	}
	machine, err := tpmtest.Manufacture(t.Context(), filepath.Join(dir, "machine"))
	must(t, err)
	power, err := machine.PowerOn(context.WithoutCancel(t.Context()))
	must(t, err)
	t.Cleanup(func() { _ = power.Kill() })
	g, err := rig.Boot(t.Context(), filepath.Join(dir, "gateway"), trust, power)
	must(t, err)
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// gatewayAgent is an agent in this process.
type gatewayAgent struct{ *agent.Agent }

func startAgent(t *testing.T, g *rig.Gateway) *gatewayAgent {
	t.Helper()
	a, err := agent.New(t.Context(), g.Settings, agent.Build{Version: "story", Time: time.Unix(1, 0), Synced: func() bool { return true }}, logger(t))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return &gatewayAgent{a}
}

// person is an operator with an SSH key.
type person struct{ key ed25519.PrivateKey }

func newPerson(t *testing.T) *person {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return &person{key}
}

func (p *person) writeOperators(t *testing.T, path string) {
	t.Helper()
	public, err := sshsigtest.Line(p.key.Public())
	must(t, err)
	o := policy.Operators{
		Version: 1, Issued: time.Now().UTC(), Fleet: rig.Name, Verbs: map[string]policy.Grant{},
		People: []policy.Person{{Name: "olga", Keys: []string{public}}},
	}
	for _, verb := range policy.Verbs() {
		o.Verbs[verb] = policy.Grant{People: []string{"olga"}, Threshold: 1}
	}
	raw, err := json.Marshal(o)
	must(t, err)
	must(t, os.WriteFile(path, raw, 0o600))
}

// send signs a command for the gateway and hands it in.
func (w *whole) send(verb string, args any) wire.Command {
	w.Helper()
	now := time.Now().UTC()
	c := wire.Command{
		Version: 1, Fleet: rig.Name, Devices: []string{w.agent.Device()}, ID: fmt.Sprintf("%s-%016d", verb, now.UnixNano()), Verb: verb,
		NotBefore: now.Add(-time.Minute), Expires: now.Add(10 * time.Minute), Reason: "story",
	}
	if args != nil {
		raw, err := json.Marshal(args)
		must(w.T, err)
		c.Args = raw
	}
	raw, err := json.Marshal(c)
	must(w.T, err)
	signature, err := sshsigtest.Sign(w.people.key, raw, wire.CommandNamespace)
	must(w.T, err)
	_, err = w.fleet.API.Command(w.Context(), w.agent.Device(), wire.Envelope{Command: raw, Signatures: []string{string(signature)}})
	must(w.T, err)
	return c
}

// receipt waits for the signed answer to c, which says that it was done, once.
func (w *whole) receipt(c wire.Command) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
	defer cancel()
	must(w.T, rig.Await(ctx, "receipt of "+c.ID, func() error {
		for _, sent := range w.device().Commands {
			if sent.ID == c.ID && len(sent.Receipts) > 0 {
				ranOnce(w.T, sent)
				return nil
			}
		}
		return errors.New("none yet")
	}))
}

// ranOnce checks the receipts of a command. It is delivered until there is one, so it
// may come again, and is refused then.
func ranOnce(t *testing.T, c operator.Command) {
	t.Helper()
	for i, r := range c.Receipts {
		if done := r.Outcome == wire.OutcomeDone; done != (i == 0) || !done && r.Rule != "replayed" {
			t.Errorf("receipt %d of %s: %s %s: %s", i+1, c.ID, r.Outcome, r.Rule, r.Text)
		}
	}
}

func (w *whole) done(verb string, args any) {
	w.Helper()
	w.receipt(w.send(verb, args))
}

// member lets a device of this fleet in that is none of the whole's: how it connects.
func (w *whole) member(id string) mqttconn.Options {
	w.Helper()
	vault, err := w.fleet.Settings.Vault()
	must(w.T, err)
	authority, err := vault.Open()
	must(w.T, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.T, err)
	leaf, chain, err := authority.Issue(ca.Full, id, key.Public(), time.Now(), time.Hour)
	must(w.T, err)
	store := w.fleet.Server.Store()
	_, _, err = store.Enroll(w.Context(), registry.Device{ID: id, EKName: []byte(id)})
	must(w.T, err)
	must(w.T, store.SetState(w.Context(), id, registry.Active, "olga", "story", time.Now()))
	must(w.T, store.AddCertificate(w.Context(), registry.Certificate{
		Serial: leaf.SerialNumber.Text(16), Device: id, Identity: id, Profile: string(ca.Full), NotAfter: leaf.NotAfter, IssuedAt: time.Now(), DER: leaf.Raw,
	}, ""))
	cert := tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw, chain[0].Raw}}
	return mqttconn.Options{
		URL: w.peer.URL(), TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: authority.Roots(), Certificates: []tls.Certificate{cert}}, ClientID: id,
		KeepAlive: 30 * time.Second, SessionExpiry: time.Hour, Timeout: time.Minute, MaxTopic: wire.MaxTopic, MaxPayload: wire.MaxBody, MaxPacket: wire.MaxMessage,
		OnMessage: func(mqttconn.Message) {},
	}
}

// crlTimer does what the timer of the docs does, more often.
type crlTimer struct {
	broker *mosquitto
	url    string
	tag    string // of the list that the broker has
}

// fetch puts the list into place if it says something new.
func (c *crlTimer) fetch() (changed bool, err error) {
	root, err := os.ReadFile(filepath.Join(c.broker.dir, "root.pem"))
	if err != nil {
		return false, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	req, err := http.NewRequest(http.MethodGet, c.url+revocation.PathCRL+"all.pem", nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("If-None-Match", c.tag)
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return false, err
	}
	path := filepath.Join(c.broker.dir, "crl.pem")
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
		return false, err
	}
	c.tag = resp.Header.Get("ETag")
	return true, nil
}

// everySecond keeps the broker's list fresh, as far as server and broker are there.
func (c *crlTimer) everySecond(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if changed, _ := c.fetch(); !changed {
					continue
				}
				if err := c.broker.restart(); err != nil {
					t.Errorf("restart mosquitto: %v", err)
				}
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}
