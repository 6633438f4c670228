package messages

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/fleet/dispatch"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/mqttconn/mqtttest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// intruder is a client with some certificate and full control of its bytes.
func (w *world) intruder(identity string) *mqttconn.Conn {
	w.Helper()
	c, err := mqttconn.Dial(w.Context(), mqttconn.Options{
		URL: w.peer.URL(), TLS: w.ca.Identity(identity), ClientID: identity, KeepAlive: 30 * time.Second, SessionExpiry: time.Hour,
		Timeout: 5 * time.Second, MaxTopic: 1000, MaxPayload: 1 << 20, MaxPacket: 1 << 20, OnMessage: func(mqttconn.Message) {},
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(c.Close)
	return c
}

func (w *world) publish(c *mqttconn.Conn, topic string, body any) {
	w.Helper()
	payload, ok := body.([]byte)
	if !ok {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			w.Fatal(err)
		}
	}
	if err := c.Publish(w.Context(), mqttconn.Message{Topic: topic, Payload: payload, QoS: 1}); err != nil {
		w.Fatal(err)
	}
}

// streams sends one message of each class and returns the names of the streams.
func (w *world) streams(o *link.Outbox) []string {
	w.Helper()
	if err := o.Put(wire.KindEvent, time.Now(), wire.Event{Version: 1, Name: "test.seen", Text: "seen"}); err != nil {
		w.Fatal(err)
	}
	w.feed(o, 0, 1, 1000, nil)
	w.drained(o)
	var names []string
	for _, kind := range []wire.Kind{wire.KindEvent, wire.KindLinkTest} {
		ms, err := w.store.Messages(w.Context(), device, string(kind), 1)
		if err != nil || len(ms) != 1 {
			w.Fatal(ms, err)
		}
		names = append(names, ms[0].Stream)
	}
	return names
}

func TestForgedAcksRemoveNothing(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.DefaultLimits())
		l := w.link(o)
		names := w.streams(o)
		// The broker is taken over: the real fleet is gone, and somebody speaks in
		// its place without its key.
		_, foreign, _ := ed25519.GenerateKey(rand.Reader)
		w.stop()
		w.feed(o, 1, 5, 1000, nil)
		fleet := w.intruder(wire.FleetIdentity)
		topic := wire.DownTopic(device, wire.KindAck)
		for _, name := range names {
			ack := wire.Ack{Stream: name, UpTo: 6} // all that was ever numbered
			forged, _ := dispatch.Sign(foreign, topic, ack)
			elsewhere, _ := dispatch.Sign(w.key, wire.DownTopic("gw-bbbbbbbbbbbbbbbb", wire.KindAck), ack)
			otherKind, _ := dispatch.Sign(w.key, wire.DownTopic(device, wire.KindVerdict), ack)
			for _, body := range []any{forged, elsewhere, otherKind, ack, wire.Signed{}, []byte("{"), []byte(nil)} {
				w.publish(fleet, topic, body)
			}
		}
		w.publish(fleet, wire.DownTopic(device, wire.KindChallenge), wire.Challenge{Nonce: []byte("last")})
		until(t, "the device has read all of it", func() bool { return len(w.got(wire.KindChallenge)) == 1 })
		if n := o.Pending(); n != 5 {
			t.Errorf("%d of 5 messages are left after forged acks", n)
		}
		if !l.Status().Connected {
			t.Error("forged acks ended the connection")
		}
	})
}

func TestReplayedAcksLoseAndDoubleNothing(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.DefaultLimits())
		w.link(o)
		stream := w.streams(o)[1]
		w.feed(o, 1, 60, 100, func(i int) {
			// What a broker that kept an old one can say again.
			if err := w.dispatch.Send(t.Context(), device, wire.KindAck, wire.Ack{Stream: stream, UpTo: uint64(i % 3)}); err != nil {
				t.Error(err)
			}
		})
		w.drained(o)
		w.exactly(61)
	})
}

func TestOldCopyOfAnOutboxLosesNothing(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.DefaultLimits())
		w.link(o)
		stream := w.streams(o)[1]
		// The fleet has taken in what this copy has never numbered.
		if ok, _, err := w.store.Accept(t.Context(), registry.Message{
			Device: device, Stream: stream, Seq: 1000, Prev: 1, Kind: "linktest", Received: time.Now(), Body: json.RawMessage(`{"run":"run","index":-1,"of":0}`),
		}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		w.feed(o, 1, 20, 100, nil)
		w.drained(o)
		arrived := map[int]bool{}
		for _, i := range w.indices() {
			arrived[i] = true
		}
		for i := range 21 {
			if !arrived[i] {
				t.Errorf("message %d is lost", i)
			}
		}
	})
}

func TestHostileDownMessagesAreIgnored(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		o := w.outbox(link.DefaultLimits())
		w.link(o)
		w.streams(o)
		_, foreign, _ := ed25519.GenerateKey(rand.Reader)
		w.stop()
		fleet := w.intruder(wire.FleetIdentity)
		topic := wire.DownTopic(device, wire.KindVerdict)
		forged, _ := dispatch.Sign(foreign, topic, wire.Verdict{Version: 1, Device: device, Gate: wire.GateRevoked})
		for _, body := range []any{forged, []byte("garbage"), []byte(strings.Repeat("[", 10_000)), wire.Verdict{Version: 1}} {
			w.publish(fleet, topic, body)
		}
		good, _ := dispatch.Sign(w.key, topic, wire.Verdict{Version: 1, Device: device, Gate: wire.GateFull})
		w.publish(fleet, topic, good)
		until(t, "the true verdict arrived", func() bool { return len(w.got(wire.KindVerdict)) > 0 })
		if got := w.got(wire.KindVerdict); len(got) != 1 || got[0] != string(good.Payload) {
			t.Errorf("handled %q, want the true verdict only", got)
		}
	})
}

func TestMalformedMessagesNeverStopTheOthers(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		hostile := w.intruder(wire.QuarantineID(device))
		unknown := w.intruder("gw-bbbbbbbbbbbbbbbb")
		up := func(seq uint64, body string) wire.Up {
			return wire.Up{Version: 1, Stream: "hostile", Seq: seq, Prev: seq - 1, Body: json.RawMessage(body)}
		}
		for kind, bodies := range map[wire.Kind][]any{
			wire.KindHealth:  {[]byte("{"), []byte(nil), []byte("\xff\x00"), up(1, `7`), up(2, `{"v":2}`), wire.Up{Version: 1, Stream: "x"}},
			wire.KindEvent:   {up(3, `{"v":1,"name":"a b","text":"","index":0,"head":""}`), up(4, `null`)},
			wire.KindHello:   {[]byte("[]"), wire.Hello{Version: 9}},
			wire.KindReceipt: {up(5, `{}`), up(6, `"x"`)},
			wire.KindLinkTest: {wire.Up{Version: 1, Stream: "../../x", Seq: 1, Body: json.RawMessage("{}")},
				wire.Up{Version: 1, Stream: "y", Seq: 1, Prev: 1, Body: json.RawMessage("{}")}},
		} {
			for _, body := range bodies {
				w.publish(hostile, wire.UpTopic(wire.QuarantineID(device), kind), body)
				w.publish(unknown, wire.UpTopic("gw-bbbbbbbbbbbbbbbb", kind), body)
			}
		}
		o := w.outbox(link.DefaultLimits())
		w.link(o)
		w.feed(o, 0, 10, 1000, nil)
		w.drained(o)
		w.exactly(10)
		if w.dispatch.Malformed() == 0 {
			t.Error("nothing was counted")
		}
		until(t, "the timeline says so", func() bool { return len(w.events("message.malformed")) > 0 })
		if n := len(w.events("message.malformed")); n != 1 {
			t.Errorf("%d events about malformed messages, want 1 a minute", n)
		}
	})
}

func TestCommandsAreDeliveredAtHelloUntilTheirReceiptAndForgedReceiptsAlarm(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		envelope, _ := json.Marshal(wire.Envelope{Command: []byte("command"), Signatures: []string{"s"}})
		if err := w.store.AddCommand(t.Context(), registry.CommandRecord{
			ID: "command-0000000001", Device: device, Envelope: envelope, Verb: "ping", Created: time.Now(), Expires: time.Now().Add(time.Hour),
		}); err != nil {
			t.Fatal(err)
		}
		o := w.outbox(link.DefaultLimits())
		l := w.link(o)
		until(t, "the command arrived", func() bool { return len(w.got(wire.KindCommand)) == 1 })
		if got := w.got(wire.KindCommand)[0]; got != string(envelope) {
			t.Fatalf("got %s", got)
		}
		l.Reconnect()
		until(t, "it came again for want of a receipt", func() bool { return len(w.got(wire.KindCommand)) >= 2 })
		w.receipts(o)
		until(t, "the receipt is stored", func() bool {
			pending, err := w.store.PendingCommands(t.Context(), device, time.Now())
			return err == nil && len(pending) == 0
		})
		w.drained(o)
		commands, err := w.store.Commands(t.Context(), device, 10)
		if err != nil || len(commands) != 1 || len(commands[0].Receipts) != 1 || commands[0].Receipts[0].Text != "pong" {
			t.Errorf("commands %+v (%v), want one with the true receipt", commands, err)
		}
		if n := len(w.events("receipt.forged")); n != 1 {
			t.Errorf("%d alarms about forged receipts, want 1", n)
		}
	})
}

// A gateway that stays connected says no hello, whatever its fleet has missed.
func TestCommandGivenWhileTheFleetIsNotConnectedArrivesWhenItIsAgain(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		l := w.link(w.outbox(link.DefaultLimits()))
		until(t, "the gateway is connected, and has said so", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return l.Status().Connected && w.hellos == 1
		})
		since := l.Status().Since
		w.stop()
		envelope, _ := json.Marshal(wire.Envelope{Command: []byte("command"), Signatures: []string{"s"}})
		if err := w.store.AddCommand(t.Context(), registry.CommandRecord{Device: device, Envelope: envelope, Verb: "ping", Created: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if err := w.dispatch.Deliver(t.Context(), device); !errors.Is(err, dispatch.ErrNotConnected) {
			t.Fatalf("without a connection: %v", err)
		}
		w.run(w.dispatch.Run)
		until(t, "the command arrived", func() bool { return len(w.got(wire.KindCommand)) == 1 })
		if s := l.Status(); !s.Connected || s.Since != since {
			t.Error("the gateway connected again: this test shows nothing")
		}
	})
}

// receipts queues a forged receipt and a true one.
func (w *world) receipts(o *link.Outbox) {
	w.Helper()
	serial := fmt.Sprintf("%x", w.cert.Leaf.SerialNumber)
	if err := w.store.AddCertificate(w.Context(), registry.Certificate{
		Serial: serial, Device: device, Identity: device, Profile: "full", SPKI: strings.Repeat("0", 64),
		NotBefore: w.cert.Leaf.NotBefore, NotAfter: w.cert.Leaf.NotAfter, IssuedAt: time.Now(), DER: w.cert.Certificate[0],
	}, ""); err != nil {
		w.Fatal(err)
	}
	hash := sha256.Sum256([]byte("command"))
	sign := func(text string) wire.Receipt {
		payload, _ := json.Marshal(wire.ReceiptBody{
			Version: 1, Device: device, Envelope: hex.EncodeToString(hash[:]), ID: "command-0000000001",
			Verb: "ping", Outcome: wire.OutcomeDone, Text: text, Time: time.Now(),
		})
		digest := sha256.Sum256(wire.ReceiptBytes(payload))
		signature, err := ecdsa.SignASN1(rand.Reader, w.cert.PrivateKey.(*ecdsa.PrivateKey), digest[:])
		if err != nil {
			w.Fatal(err)
		}
		return wire.Receipt{Payload: payload, Serial: serial, Signature: signature}
	}
	forged := sign("true")
	forged.Payload = []byte(strings.Replace(string(forged.Payload), `"done"`, `"failed"`, 1))
	for _, r := range []wire.Receipt{forged, sign("pong")} {
		if err := o.Put(wire.KindReceipt, time.Now(), r); err != nil {
			w.Fatal(err)
		}
	}
}

func TestRefusedIdentityIsReportedOnceAndEndsWithNewCredentials(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		w.mu.Lock()
		w.cert = ca.Issue(device, -time.Minute) // expired
		w.mu.Unlock()
		o := w.outbox(link.DefaultLimits())
		l := w.link(o)
		until(t, "the link says so", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.refusals) > 0 })
		until(t, "it tried again", func() bool { return strings.Contains(l.Status().LastError, "certificate") })
		w.become(device)
		l.Reconnect()
		until(t, "it is connected", func() bool { return l.Status().Connected })
		if n := len(w.refusals); n > 2 {
			t.Errorf("told %d times", n)
		}
		if err := l.Publish(context.Background(), wire.KindEvidence, map[string]string{"x": strings.Repeat("y", wire.MaxMessage)}); !errors.Is(err, mqttconn.ErrTooLong) {
			t.Errorf("oversized evidence: %v", err)
		}
		if err := l.Publish(context.Background(), wire.KindEvidence, map[string]string{"x": "y"}); err != nil {
			t.Error(err)
		}
		until(t, "evidence arrived", func() bool { return len(w.got(wire.KindEvidence)) == 1 })
	})
}
