package broker

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// raw speaks MQTT byte by byte, for what a decent client library won't send.
type raw struct{ net.Conn }

func rawDial(t *testing.T, b *bench, identity string) raw {
	t.Helper()
	u, _ := url.Parse(b.url)
	c, err := tls.Dial("tcp", u.Host, b.ca.Identity(identity))
	for try := 1; err != nil; try++ { // a stalled machine may exceed the limit of a handshake, but not each time
		if try == 5 {
			t.Fatal(err)
		}
		c, err = tls.Dial("tcp", u.Host, b.ca.Identity(identity))
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return raw{c}
}

type rawWill struct {
	topic  string
	retain bool
	delay  uint32
}

// connect sends CONNECT and returns the reason code of the CONNACK.
func (r raw) connect(t *testing.T, id string, will *rawWill) byte {
	t.Helper()
	pk := packets.Packet{ProtocolVersion: 5, FixedHeader: packets.FixedHeader{Type: packets.Connect}}
	pk.Connect = packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: id, Keepalive: 30, Clean: true}
	if will != nil {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, will.topic, []byte("will")
		pk.Connect.WillRetain, pk.Connect.WillProperties.WillDelayInterval = will.retain, will.delay
	}
	var buf bytes.Buffer
	if err := pk.ConnectEncode(&buf); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(buf.Bytes()); err != nil {
		t.Fatal(err)
	}
	kind, body := r.packet(t)
	if kind != packets.Connack || len(body) < 2 {
		t.Fatalf("got packet type %d, want CONNACK", kind)
	}
	return body[1]
}

func (r raw) publish(t *testing.T, topic, payload string, header byte) {
	t.Helper()
	body := append(binary.BigEndian.AppendUint16(nil, uint16(len(topic))), topic...)
	if header&0x06 != 0 {
		body = append(body, 0, 7)
	}
	body = append(append(body, 0), payload...)
	if _, err := r.Write(append([]byte{header, byte(len(body))}, body...)); err != nil {
		t.Fatal(err)
	}
}

func (r raw) puback(t *testing.T) byte {
	t.Helper()
	kind, body := r.packet(t)
	if kind != packets.Puback || len(body) < 3 {
		t.Fatalf("got packet type %d %x, want PUBACK with a reason", kind, body)
	}
	return body[2]
}

func (r raw) packet(t *testing.T) (kind byte, body []byte) {
	t.Helper()
	one := make([]byte, 1)
	read := func() byte {
		if _, err := r.Read(one); err != nil {
			t.Fatal(err)
		}
		return one[0]
	}
	kind = read() >> 4
	n, shift := 0, 0
	for {
		b := read()
		n |= int(b&0x7f) << shift
		shift += 7
		if b&0x80 == 0 {
			break
		}
	}
	for range n {
		body = append(body, read())
	}
	return kind, body
}

func TestWillOnAForeignTopicIsRefused(t *testing.T) {
	b := start(t, DefaultLimits())
	for name, will := range map[string]*rawWill{
		"other device": {topic: wire.UpTopic(deviceB, wire.KindEvent)},
		"command":      {topic: wire.DownTopic(deviceB, wire.KindCommand)},
		"retained":     {topic: wire.UpTopic(deviceA, wire.KindEvent), retain: true},
	} {
		if code := rawDial(t, b, deviceA).connect(t, deviceA, will); code != 0x87 && code != 0x9A {
			t.Errorf("will on %s: reason code %#x, want a refusal", name, code)
		}
	}
}

func TestDropTakesTheWillToo(t *testing.T) {
	b := start(t, DefaultLimits())
	up := make(chan mqttconn.Message, 9)
	fleet := b.dial(wire.FleetIdentity, up)
	b.subscribe(fleet, wire.UpTopic("+", "+"))
	r := rawDial(t, b, deviceA)
	if code := r.connect(t, deviceA, &rawWill{topic: wire.UpTopic(deviceA, wire.KindEvent), delay: 1}); code != 0 {
		t.Fatalf("own will: reason code %#x", code)
	}
	b.broker.Drop(deviceA)
	for { // until the broker has closed it
		if _, err := r.Read(make([]byte, 64)); err != nil {
			break
		}
	}
	// The control: the same will without Drop is published.
	r = rawDial(t, b, deviceB)
	r.connect(t, deviceB, &rawWill{topic: wire.UpTopic(deviceB, wire.KindEvent)})
	_ = r.Close()
	select {
	case m := <-up:
		if m.Topic != wire.UpTopic(deviceB, wire.KindEvent) {
			t.Fatalf("will of the dropped client was published on %s", m.Topic)
		}
	case <-time.After(time.Minute):
		t.Fatal("no will at all")
	}
}

func TestSilentAndHalfOpenClientsDoNotBlockOthers(t *testing.T) {
	limits := DefaultLimits()
	limits.Handshake, limits.Handshakes = 2*time.Second, 8
	b := start(t, limits)
	u, _ := url.Parse(b.url)
	var device *mqttconn.Conn
	for try := 1; ; try++ { // the machine itself may stall, but not each time
		var silent []net.Conn
		for range 7 { // one slot is left
			c, err := net.Dial("tcp", u.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			silent = append(silent, c)
		}
		began := time.Now()
		var err error
		device, err = mqttconn.Dial(t.Context(), b.options(deviceA, b.ca.Identity(deviceA), nil))
		took := time.Since(began)
		if err == nil {
			defer device.Close()
			if took <= time.Second {
				break
			}
		}
		if try == 5 {
			t.Fatalf("connecting took %v beside silent clients: %v", took, err)
		}
		for _, c := range silent {
			_ = c.Close()
		}
	}
	if err := b.publish(device, wire.UpTopic(deviceA, wire.KindHealth), "well"); err != nil {
		t.Fatal(err)
	}
	// A client that shakes hands and then says nothing is shown the door.
	r := rawDial(t, b, deviceB)
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("a silent client got an answer")
	}
}

func TestOldProtocolIsRefused(t *testing.T) {
	b := start(t, DefaultLimits())
	r := rawDial(t, b, deviceA)
	pk := packets.Packet{ProtocolVersion: 4, FixedHeader: packets.FixedHeader{Type: packets.Connect}}
	pk.Connect = packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: deviceA, Keepalive: 30, Clean: true}
	var buf bytes.Buffer
	if err := pk.ConnectEncode(&buf); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(buf.Bytes()); err != nil {
		t.Fatal(err)
	}
	if kind, body := r.packet(t); kind != packets.Connack || body[1] == 0 {
		t.Errorf("MQTT 3.1.1 was let in: %d %x", kind, body)
	}
}
