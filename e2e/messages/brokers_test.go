package messages

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/broker"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/freeport"
	"github.com/gatewarden/gatewarden/internal/mqttconn/mqtttest"
)

// peer is a broker that can die and come back at the same address.
type peer interface {
	URL() string
	Start(t *testing.T)
	Kill(t *testing.T)
}

// eachBroker runs test against every broker that is supported here.
func eachBroker(t *testing.T, test func(t *testing.T, ca *mqtttest.CA, p peer)) {
	t.Run("embedded", func(t *testing.T) {
		ca := mqtttest.NewCA(t)
		test(t, ca, started(t, &embedded{ca: ca, address: freeAddress(t)}))
	})
	t.Run("mosquitto", func(t *testing.T) {
		path, err := exec.LookPath("mosquitto")
		if err != nil {
			t.Skip("mosquitto is not installed: apt-get install mosquitto")
		}
		ca := mqtttest.NewCA(t)
		test(t, ca, started(t, newMosquitto(t, ca, path)))
	})
}

func started(t *testing.T, p peer) peer {
	p.Start(t)
	t.Cleanup(func() { p.Kill(t) })
	return p
}

func freeAddress(t *testing.T) string {
	t.Helper()
	addresses, err := freeport.Addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	return addresses[0]
}

// embedded is the fleet's own broker.
type embedded struct {
	ca      *mqtttest.CA
	address string
	broker  *broker.Broker
	cancel  context.CancelFunc
	done    chan error
}

func (e *embedded) URL() string { return "mqtts://" + e.address }

func (e *embedded) Start(t *testing.T) {
	t.Helper()
	var err error
	e.broker, err = broker.New(broker.Config{
		TLS: e.ca.Server(), Limits: broker.DefaultLimits(), Log: logger(t),
		Authorize: func(context.Context, string, string, *x509.Certificate) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	until(t, "the port is free", func() bool {
		l, err = net.Listen("tcp", e.address)
		return err == nil
	})
	var ctx context.Context
	ctx, e.cancel = context.WithCancel(context.Background())
	e.done = make(chan error, 1)
	go func() { e.done <- e.broker.Serve(ctx, l) }()
}

// Kill forgets sessions and queues: all of that broker's state is in memory.
func (e *embedded) Kill(*testing.T) {
	if e.cancel != nil {
		e.cancel()
		<-e.done
		e.cancel = nil
	}
}

// mosquitto is the documented production broker, as a process.
type mosquitto struct {
	path, dir, address string

	mu      sync.Mutex
	process *exec.Cmd
}

func newMosquitto(t *testing.T, ca *mqtttest.CA, path string) *mosquitto {
	m := &mosquitto{path: path, dir: t.TempDir(), address: freeAddress(t)}
	ca.Write(m.dir)
	m.configure(t, "root.pem", "ca.pem", "broker.pem", "cert.pem", "broker.key", "key.pem", "\ncrlfile ", "\n#crlfile ")
	return m
}

// configure writes the configuration of the docs, for this folder and address, with
// the replacements given.
func (m *mosquitto) configure(t *testing.T, replace ...string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(m.address)
	conf := strings.NewReplacer("listener 8883", "listener "+port+" "+host, "/etc/mosquitto/gatewarden", m.dir).Replace(example(t, "mosquitto.conf"))
	conf = strings.NewReplacer(replace...).Replace(conf)
	if os.Getuid() == 0 {
		conf += "user root\n"
	}
	for name, text := range map[string]string{"conf": conf, "acl": example(t, "mosquitto.acl")} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// example is a file of the docs: what is written there is what the tests run.
func example(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("../../docs/examples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (m *mosquitto) URL() string { return "mqtts://" + m.address }

func (m *mosquitto) Start(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	must(t, m.start())
}

// start returns when it runs: it listens before that, and a signal to reload would
// end it.
func (m *mosquitto) start() error {
	log, err := os.Create(filepath.Join(m.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	m.process = exec.Command(m.path, "-c", filepath.Join(m.dir, "conf"))
	m.process.Stderr = log
	if err := m.process.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return rig.Await(ctx, "mosquitto runs", func() error {
		said, err := os.ReadFile(log.Name())
		if err == nil && !bytes.Contains(said, []byte(" running\n")) {
			err = fmt.Errorf("it says %q", said)
		}
		return err
	})
}

func (m *mosquitto) Kill(*testing.T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kill()
}

func (m *mosquitto) kill() {
	if m.process != nil {
		_ = m.process.Process.Kill()
		_ = m.process.Wait()
		m.process = nil
	}
}

// restart does so if it runs; it may be called beside the others.
func (m *mosquitto) restart() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return nil
	}
	m.kill()
	return m.start()
}
