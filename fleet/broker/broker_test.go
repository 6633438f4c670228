package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/mqttconn/mqtttest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	deviceA = "gw-aaaaaaaaaaaaaaaa"
	deviceB = "gw-bbbbbbbbbbbbbbbb"
)

type bench struct {
	*testing.T
	ca     *mqtttest.CA
	broker *Broker
	url    string

	mu      sync.Mutex
	refused map[string]bool // serials that Authorize refuses
}

func start(t *testing.T, limits Limits) *bench {
	b := &bench{T: t, ca: mqtttest.NewCA(t), refused: map[string]bool{}}
	var err error
	b.broker, err = New(Config{TLS: b.ca.Server(), Limits: limits, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Authorize: func(_ context.Context, _, serial string, _ *x509.Certificate) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.refused[serial] {
				return errors.New("revoked")
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.url = "mqtts://" + l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.broker.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Error("broker did not end")
		}
	})
	return b
}

func (b *bench) options(identity string, config *tls.Config, got chan mqttconn.Message) mqttconn.Options {
	return mqttconn.Options{
		URL: b.url, TLS: config, ClientID: identity, KeepAlive: 30 * time.Second, SessionExpiry: time.Hour,
		Timeout: time.Minute, MaxTopic: 200_000, MaxPayload: 4 << 20, MaxPacket: 4<<20 + 4096,
		OnMessage: func(m mqttconn.Message) {
			if got != nil {
				got <- m
			}
		},
	}
}

func (b *bench) dial(identity string, got chan mqttconn.Message) *mqttconn.Conn {
	b.Helper()
	c, err := mqttconn.Dial(b.Context(), b.options(identity, b.ca.Identity(identity), got))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return c
}

func (b *bench) subscribe(c *mqttconn.Conn, filter string) {
	b.Helper()
	if err := c.Subscribe(b.Context(), filter); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) publish(c *mqttconn.Conn, topic, payload string) error {
	return c.Publish(b.Context(), mqttconn.Message{Topic: topic, Payload: []byte(payload), QoS: 1})
}

func receive(t *testing.T, got chan mqttconn.Message, want string) {
	t.Helper()
	select {
	case m := <-got:
		if string(m.Payload) != want {
			t.Fatalf("got %q, want %q", m.Payload, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("no message, want %q", want)
	}
}

func ended(t *testing.T, c *mqttconn.Conn) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(3 * time.Minute):
		t.Fatal("connection is still open")
	}
}

func TestMessagesPassBetweenDeviceAndFleet(t *testing.T) {
	b := start(t, DefaultLimits())
	up, down := make(chan mqttconn.Message, 9), make(chan mqttconn.Message, 9)
	fleet, device := b.dial(wire.FleetIdentity, up), b.dial(deviceA, down)
	b.subscribe(fleet, "$share/fleet/"+wire.UpTopic("+", "+"))
	b.subscribe(device, wire.DownTopic(deviceA, "+"))
	if err := b.publish(device, wire.UpTopic(deviceA, wire.KindHealth), "well"); err != nil {
		t.Fatal(err)
	}
	receive(t, up, "well")
	if err := b.publish(fleet, wire.DownTopic(deviceA, wire.KindCommand), "do"); err != nil {
		t.Fatal(err)
	}
	receive(t, down, "do")
}

// Evidence with an IMA list needs it.
func TestTheLongestMessagePasses(t *testing.T) {
	b := start(t, DefaultLimits())
	up := make(chan mqttconn.Message, 9)
	fleet, device := b.dial(wire.FleetIdentity, up), b.dial(deviceA, make(chan mqttconn.Message, 9))
	b.subscribe(fleet, "$share/fleet/"+wire.UpTopic("+", "+"))
	long := strings.Repeat("x", wire.MaxMessage)
	if err := b.publish(device, wire.UpTopic(deviceA, wire.KindEvidence), long); err != nil {
		t.Fatal(err)
	}
	receive(t, up, long)
}

func TestPublishingOnAnotherDevicesTopicIsRefused(t *testing.T) {
	b := start(t, DefaultLimits())
	up := make(chan mqttconn.Message, 9)
	fleet, device := b.dial(wire.FleetIdentity, up), b.dial(deviceA, nil)
	b.subscribe(fleet, wire.UpTopic("+", "+"))
	for _, topic := range []string{
		wire.UpTopic(deviceB, wire.KindHealth), wire.UpTopic(wire.QuarantineID(deviceA), wire.KindHealth), wire.UpTopic(deviceA, "gossip"),
		wire.DownTopic(deviceB, wire.KindCommand), wire.DownTopic(deviceA, wire.KindCommand), "gw/v1/" + deviceA + "/up/health/x",
		"other",
	} {
		var refused *mqttconn.Refused
		if err := b.publish(device, topic, "forged"); !errors.As(err, &refused) || refused.Code != 0x87 {
			t.Errorf("publish on %s: %v, want not authorised", topic, err)
		}
	}
	// QoS 0 has no answer: it must vanish.
	if err := device.Send(t.Context(), mqttconn.Message{Topic: wire.UpTopic(deviceB, wire.KindHealth), Payload: []byte("forged")}); err != nil {
		t.Fatal(err)
	}
	if err := b.publish(device, wire.UpTopic(deviceA, wire.KindHealth), "mine"); err != nil {
		t.Fatal(err)
	}
	receive(t, up, "mine")
}

func TestReadingAnotherDevicesTopicIsRefused(t *testing.T) {
	b := start(t, DefaultLimits())
	device := b.dial(deviceA, nil)
	for _, filter := range []string{
		wire.DownTopic(deviceB, "+"), wire.DownTopic("+", "+"), wire.UpTopic("+", "+"), "#", "$SYS/#", "gw/v1/#",
		"$share/fleet/" + wire.DownTopic(deviceA, "+"), "$share/x/gw/v1/+/up/+",
	} {
		if err := device.Subscribe(t.Context(), filter); err == nil {
			t.Errorf("subscribe to %s was granted", filter)
		}
	}
	b.subscribe(device, wire.DownTopic(deviceA, "#"))
}

func TestClientIDOfAnotherIsRefused(t *testing.T) {
	b := start(t, DefaultLimits())
	victim := b.dial(deviceA, nil)
	for _, id := range []string{deviceA, wire.FleetIdentity, wire.QuarantineID(deviceB), "x"} {
		_, err := mqttconn.Dial(t.Context(), b.options(id, b.ca.Identity(deviceB), nil))
		var refused *mqttconn.Refused
		if !errors.As(err, &refused) || !refused.Credentials() {
			t.Errorf("client id %s with the certificate of %s: %v, want a refusal", id, deviceB, err)
		}
	}
	if err := b.publish(victim, wire.UpTopic(deviceA, wire.KindHealth), "still here"); err != nil {
		t.Fatal(err)
	}
}

func TestIdentityThatIsNoDevicesIsRefused(t *testing.T) {
	b := start(t, DefaultLimits())
	for _, id := range []string{"operator", "gw-short", "q-x", "+", "#"} {
		if _, err := mqttconn.Dial(t.Context(), b.options(id, b.ca.Identity(id), nil)); err == nil {
			t.Errorf("%s was let in", id)
		}
	}
}

func TestForeignCAAndMissingCertificateAreRefused(t *testing.T) {
	b := start(t, DefaultLimits())
	foreign := mqtttest.NewCA(t).Identity(deviceA)
	foreign.RootCAs = b.ca.Pool()
	expired := b.ca.Client(b.ca.Issue(deviceA, -time.Minute))
	for name, config := range map[string]*tls.Config{"foreign": foreign, "none": {RootCAs: b.ca.Pool()}, "expired": expired} {
		_, err := mqttconn.Dial(t.Context(), b.options(deviceA, config, nil))
		var refused *mqttconn.Refused
		if !errors.As(err, &refused) || !refused.Credentials() {
			t.Errorf("%s certificate: %v, want a refusal that names the certificate", name, err)
		}
	}
}

func TestRevokedCertificateIsRefusedAndDropEndsSessionAndQueue(t *testing.T) {
	b := start(t, DefaultLimits())
	cert := b.ca.Issue(deviceA, time.Hour)
	got := make(chan mqttconn.Message, 9)
	fleet := b.dial(wire.FleetIdentity, nil)
	device, err := mqttconn.Dial(t.Context(), b.options(deviceA, b.ca.Client(cert), got))
	if err != nil {
		t.Fatal(err)
	}
	b.subscribe(device, wire.DownTopic(deviceA, "+"))
	b.mu.Lock()
	b.refused[fmt.Sprintf("%x", cert.Leaf.SerialNumber)] = true
	b.mu.Unlock()
	b.broker.Drop(deviceA)
	ended(t, device)
	var refused *mqttconn.Refused
	if !errors.As(device.Err(), &refused) || !refused.Credentials() {
		t.Errorf("connection ended with %v, want an administrative refusal", device.Err())
	}
	if err := b.publish(fleet, wire.DownTopic(deviceA, wire.KindCommand), "while away"); err != nil {
		t.Fatal(err)
	}
	if _, err := mqttconn.Dial(t.Context(), b.options(deviceA, b.ca.Client(cert), got)); !errors.As(err, &refused) {
		t.Fatalf("revoked certificate: %v, want a refusal", err)
	}
	// With a new certificate the device starts anew: no subscription, no queue.
	b.dial(deviceA, got)
	if err := b.publish(fleet, wire.DownTopic(deviceA, wire.KindCommand), "after"); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-got:
		t.Fatalf("got %q from a session that was dropped", m.Payload)
	case <-time.After(200 * time.Millisecond):
	}
}

func TestSessionKeepsMessagesForADeviceThatIsAway(t *testing.T) {
	b := start(t, DefaultLimits())
	got := make(chan mqttconn.Message, 9)
	fleet := b.dial(wire.FleetIdentity, nil)
	device := b.dial(deviceA, got)
	b.subscribe(device, wire.DownTopic(deviceA, "+"))
	device.Close()
	if err := b.publish(fleet, wire.DownTopic(deviceA, wire.KindCommand), "while away"); err != nil {
		t.Fatal(err)
	}
	again := b.dial(deviceA, got)
	// The broker's packet 1 is on its way while ours of the same number comes.
	b.subscribe(again, wire.DownTopic(deviceA, "+"))
	receive(t, got, "while away")
}

func TestCertificateThatExpiresEndsItsConnection(t *testing.T) {
	b := start(t, DefaultLimits())
	for life := 2 * time.Second; ; life *= 2 {
		c, err := mqttconn.Dial(t.Context(), b.options(deviceA, b.ca.Client(b.ca.Issue(deviceA, life)), nil))
		if err == nil {
			ended(t, c)
			return
		}
		if life > time.Minute { // else the machine may have stalled while the certificate lived
			t.Fatal(err)
		}
	}
}

func TestRetainedMessageIsRefusedAndOversizedEndsTheConnection(t *testing.T) {
	limits := DefaultLimits()
	limits.Message = 1 << 20
	b := start(t, limits)
	got := make(chan mqttconn.Message, 9)
	raw := rawDial(t, b, wire.FleetIdentity)
	raw.connect(t, wire.FleetIdentity, nil)
	raw.publish(t, wire.DownTopic(deviceA, wire.KindCommand), "kept", 0x33) // QoS 1, retain
	raw.publish(t, wire.DownTopic(deviceA, wire.KindCommand), "kept", 0x31) // QoS 0, retain
	if code := raw.puback(t); code != 0x9A {
		t.Errorf("retained publish: reason code %#x, want 0x9A", code)
	}
	device := b.dial(deviceA, got)
	b.subscribe(device, wire.DownTopic(deviceA, "+"))
	fleet := b.dial(wire.FleetIdentity, nil)
	if err := b.publish(fleet, wire.DownTopic(deviceA, wire.KindCommand), "live"); err != nil {
		t.Fatal(err)
	}
	receive(t, got, "live")
	big := make([]byte, limits.Message+1)
	_ = device.Send(t.Context(), mqttconn.Message{Topic: wire.UpTopic(deviceA, wire.KindHealth), Payload: big, QoS: 1})
	ended(t, device)
}
