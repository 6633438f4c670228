package messages

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/broker"
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
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
	process            *exec.Cmd
}

func newMosquitto(t *testing.T, ca *mqtttest.CA, path string) *mosquitto {
	m := &mosquitto{path: path, dir: t.TempDir(), address: freeAddress(t)}
	ca.Write(m.dir)
	_, port, _ := net.SplitHostPort(m.address)
	conf := fmt.Sprintf(`listener %s 127.0.0.1
cafile %[2]s/ca.pem
certfile %[2]s/cert.pem
keyfile %[2]s/key.pem
tls_version tlsv1.3
require_certificate true
use_identity_as_username true
use_username_as_clientid true
acl_file %[2]s/acl
max_queued_messages 10000
message_size_limit 1200000
persistence false
`, port, m.dir)
	if os.Getuid() == 0 {
		conf += "user root\n"
	}
	acl := `user fleet
topic write gw/v1/+/down/+
topic read gw/v1/+/up/+
pattern write gw/v1/%u/up/+
pattern read gw/v1/%u/down/+
`
	for name, text := range map[string]string{"conf": conf, "acl": acl} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *mosquitto) URL() string { return "mqtts://" + m.address }

func (m *mosquitto) Start(t *testing.T) {
	t.Helper()
	m.process = exec.Command(m.path, "-c", filepath.Join(m.dir, "conf"))
	if err := m.process.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "mosquitto listens", func() bool {
		c, err := net.DialTimeout("tcp", m.address, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (m *mosquitto) Kill(*testing.T) {
	if m.process != nil {
		_ = m.process.Process.Kill()
		_ = m.process.Wait()
		m.process = nil
	}
}
