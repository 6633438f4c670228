package helper

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/sshsig/sshsigtest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	fleet    = "acme-eu"
	patience = 2 * time.Minute // until a test says that something hangs: a loaded machine takes its time
)

func start() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }

func key(letter byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(letter), 32)))
}

// machine is a device whose helper takes reboots signed by anna and ben.
type machine struct {
	t      testing.TB
	dir    string
	config Config
	now    time.Time
	synced bool
	boots  chan struct{} // one per reboot
	stop   context.CancelFunc
	ended  chan error
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, now: start(), synced: true, boots: make(chan struct{}, 100)}
	m.configure()
	if err := os.Mkdir(m.config.Trust, 0o700); err != nil {
		t.Fatal(err)
	}
	m.writeTrust(policy.FleetFile, fleetDocument(t))
	m.writeTrust(policy.OperatorsFile, operatorsDocument(t))
	return m
}

func (m *machine) configure() {
	m.config = Config{
		PeerUID: os.Geteuid(), Trust: filepath.Join(m.dir, "trust"), State: filepath.Join(m.dir, "state"),
		Software: "1.2.3", Build: start().AddDate(0, -1, 0), BootID: "boot-1",
		EKName: func(context.Context) ([]byte, error) { return []byte("the name of the endorsement key"), nil },
		Reboot: func(context.Context) error { m.boots <- struct{}{}; return nil },
		Now:    func() time.Time { return m.now }, Synced: func() bool { return m.synced },
		FS: &fsx.FS{}, Log: slog.New(slog.DiscardHandler),
	}
}

func (m *machine) writeTrust(name string, v any) {
	m.t.Helper()
	if err := m.config.FS.WriteJSON(filepath.Join(m.config.Trust, name), v, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func fleetDocument(t testing.TB) policy.Fleet {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: start(), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Fleet{
		Version: 1, Issued: start().AddDate(0, 0, -2), Fleet: fleet, API: []string{"https://fleet.example.org:8443"},
		Broker: []string{"mqtts://fleet.example.org:8883"}, MessageKeys: [][]byte{make([]byte, 32)},
		Anchors: []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))},
	}
}

func operatorsDocument(t testing.TB) policy.Operators {
	t.Helper()
	line := func(letter byte) []string {
		k, err := sshsigtest.Line(key(letter).Public())
		if err != nil {
			t.Fatal(err)
		}
		return []string{k}
	}
	return policy.Operators{
		Version: 1, Issued: start().AddDate(0, 0, -1), Fleet: fleet,
		People: []policy.Person{{Name: "anna", Keys: line('a')}, {Name: "ben", Keys: line('b')}},
		Verbs: map[string]policy.Grant{
			policy.VerbPing:   {People: []string{"anna"}, Threshold: 1},
			policy.VerbReboot: {People: []string{"anna", "ben"}, Threshold: 2},
		},
	}
}

// run starts the helper and returns a client for it.
func (m *machine) run() *client.Client {
	m.t.Helper()
	path := filepath.Join(m.dir, "helper.sock")
	l, err := Listen(path, m.config.PeerUID)
	if err != nil {
		m.t.Fatal(err)
	}
	m.config.Listener = l
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, m.config) }()
	m.stop, m.ended = cancel, ended
	m.t.Cleanup(m.halt)
	return client.New(path)
}

// halt ends the helper and waits for it.
func (m *machine) halt() {
	m.stop()
	if m.ended == nil {
		return
	}
	select {
	case err := <-m.ended:
		if err != nil {
			m.t.Errorf("the helper ended: %v", err)
		}
	case <-time.After(patience):
		m.t.Error("the helper does not end")
	}
	m.ended = nil
}

// raw opens a connection to misuse.
func (m *machine) raw() *net.UnixConn {
	m.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(m.dir, "helper.sock"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return conn.(*net.UnixConn)
}

func (m *machine) command() wire.Command {
	return wire.Command{
		Version: 1, Fleet: fleet, Devices: []string{wire.DeviceID(fleet, []byte("the name of the endorsement key"))},
		ID: "0123456789abcdef", Verb: policy.VerbReboot, NotBefore: start().Add(-time.Minute), Expires: start().Add(time.Hour), Reason: "because",
	}
}

func (m *machine) sign(c wire.Command, letters string) wire.Envelope {
	m.t.Helper()
	message, err := json.Marshal(c)
	if err != nil {
		m.t.Fatal(err)
	}
	env := wire.Envelope{Command: message}
	for _, letter := range []byte(letters) {
		armored, err := sshsigtest.Sign(key(letter), message, wire.CommandNamespace)
		if err != nil {
			m.t.Fatal(err)
		}
		env.Signatures = append(env.Signatures, string(armored))
	}
	return env
}

func (m *machine) wantRefused(err error, rule string) {
	m.t.Helper()
	var refusal *policy.Refusal
	if !errors.As(err, &refusal) || refusal.Rule != rule {
		m.t.Errorf("error is %v, want a refusal by %s", err, rule)
	}
	m.wantNoReboot()
}

// wantNoReboot holds once the answer is there: a reboot is recorded before it.
func (m *machine) wantNoReboot() {
	m.t.Helper()
	m.halt() // verbs that still run end first
	if len(m.boots) > 0 {
		m.t.Error("it rebooted")
	}
}

func (m *machine) wantReboot() {
	m.t.Helper()
	select {
	case <-m.boots:
	case <-time.After(patience):
		m.t.Fatal("it did not reboot")
	}
}
