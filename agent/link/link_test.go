package link

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const identity = "gw-aaaaaaaaaaaaaaaa"

func setFormat(t *testing.T, o *Outbox, format string) {
	t.Helper()
	if err := o.db.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(metaName()).Put([]byte("format"), []byte(format))
	}); err != nil {
		t.Fatal(err)
	}
}

func newLink(t *testing.T, change func(*Config)) *Link {
	t.Helper()
	c := Config{
		Brokers: func() []string { return nil }, TLS: func() (*tls.Config, string, error) { return nil, "", errors.New("none yet") },
		Outbox: open(t, filepath.Join(t.TempDir(), "outbox.db"), DefaultLimits()), Keys: func() []ed25519.PublicKey { return nil },
		Handle: func(context.Context, wire.Kind, []byte) {}, Hello: func() wire.Hello { return wire.Hello{} }, Log: quiet(),
	}
	change(&c)
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestFiveHundredDevicesComeBackSpreadOut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for attempt, bound := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
		var waits []time.Duration
		for range 500 {
			waits = append(waits, mqttconn.Backoff(attempt, time.Minute, r.Float64()))
		}
		slices.Sort(waits)
		if waits[0] < 0 || waits[499] >= bound {
			t.Errorf("attempt %d: waits from %v to %v, want below %v", attempt, waits[0], waits[499], bound)
		}
		// Full jitter is uniform: each tenth of the span gets about 50 of 500.
		for tenth := range 10 {
			from, _ := slices.BinarySearch(waits, bound*time.Duration(tenth)/10)
			to, _ := slices.BinarySearch(waits, bound*time.Duration(tenth+1)/10)
			if n := to - from; n < 25 || n > 80 {
				t.Errorf("attempt %d: %d of 500 devices in tenth %d", attempt, n, tenth)
			}
		}
	}
	for _, attempt := range []int{6, 29, 30, 1 << 40} {
		if w := mqttconn.Backoff(attempt, time.Minute, 0.999); w > time.Minute || w < 59*time.Second {
			t.Errorf("attempt %d waits %v, want about the limit", attempt, w)
		}
	}
}

func TestRetainedAndForeignMessagesAreIgnored(t *testing.T) {
	l := newLink(t, func(*Config) {})
	acks := newAckBox()
	for _, m := range []mqttconn.Message{
		{Topic: wire.DownTopic(identity, wire.KindCommand), Payload: []byte("retained"), Retained: true},
		{Topic: wire.DownTopic("gw-bbbbbbbbbbbbbbbb", wire.KindCommand), Payload: []byte("another's")},
		{Topic: wire.DownTopic("q-"+identity, wire.KindCommand), Payload: []byte("not this identity's")},
		{Topic: wire.UpTopic(identity, wire.KindCommand)}, {Topic: ""}, {Topic: "gw/v1/" + identity + "/down/command/x"},
		{Topic: wire.DownTopic(identity, "reply")},
	} {
		l.receive(identity, m, acks)
	}
	if n := len(l.inbox[wire.KindCommand]); n != 0 {
		t.Errorf("%d were handed on", n)
	}
	l.receive(identity, mqttconn.Message{Topic: wire.DownTopic(identity, wire.KindCommand), Payload: []byte("mine")}, acks)
	if n := len(l.inbox[wire.KindCommand]); n != 1 {
		t.Errorf("%d were handed on, want the true one", n)
	}
}

// TestNewerFleetMaySayMoreInWhatItSigns: in the message and around it. What is signed
// stays as it came.
func TestNewerFleetMaySayMoreInWhatItSigns(t *testing.T) {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(t, func(c *Config) { c.Keys = func() []ed25519.PublicKey { return []ed25519.PublicKey{public} } })
	acks := newAckBox()
	for kind, payload := range map[wire.Kind]string{
		wire.KindAck:     `{"of_a_later_release":1,"stream":"s","up_to":7}`,
		wire.KindVerdict: `{"of_a_later_release":1,"v":1}`,
	} {
		topic := wire.DownTopic(identity, kind)
		signed, err := json.Marshal(wire.Signed{Payload: []byte(payload), Signature: ed25519.Sign(key, wire.SignedBytes(topic, []byte(payload)))})
		if err != nil {
			t.Fatal(err)
		}
		l.receive(identity, mqttconn.Message{Topic: topic, Payload: append([]byte(`{"of_a_later_release":{},`), signed[1:]...)}, acks)
	}
	if taken := acks.take(); taken["s"] != 7 {
		t.Errorf("acks %v", taken)
	}
	select {
	case v := <-l.inbox[wire.KindVerdict]:
		if string(v) != `{"of_a_later_release":1,"v":1}` {
			t.Errorf("verdict %s", v)
		}
	default:
		t.Error("the verdict was ignored")
	}
}

func TestFloodOfMessagesNeverBlocksTheConnection(t *testing.T) {
	l := newLink(t, func(*Config) {}) // nobody takes them
	for i := range 1000 {
		for _, kind := range []wire.Kind{wire.KindCommand, wire.KindChallenge} {
			l.enqueue(kind, []byte{byte(i)})
		}
	}
	if n := len(l.inbox[wire.KindCommand]); n != handleQueue {
		t.Errorf("%d commands wait", n)
	}
	if p := <-l.inbox[wire.KindChallenge]; p[0] != 999%256 {
		t.Errorf("challenge %d is kept, want the latest", p[0])
	}
	acks := newAckBox()
	for i := range 1000 {
		acks.put(wire.Ack{Stream: strings.Repeat("x", i), UpTo: 1})
	}
	if n := len(acks.take()); n != maxStreams {
		t.Errorf("%d acks are kept", n)
	}
}

func TestStringOver65535BytesIsRefusedAtEncode(t *testing.T) {
	long := "gw-" + strings.Repeat("a", 70_000)
	l := newLink(t, func(c *Config) {
		c.Brokers = func() []string { return []string{"mqtts://127.0.0.1:1"} }
		c.TLS = func() (*tls.Config, string, error) { return &tls.Config{}, long, nil }
	})
	if err := l.session(t.Context(), 0); !errors.Is(err, mqttconn.ErrTooLong) {
		t.Errorf("identity of %d bytes: %v", len(long), err)
	}
}

func TestNoCredentialsYetIsWaitedOutAndReconnectEndsTheWait(t *testing.T) {
	asked := make(chan struct{}, 9)
	l := newLink(t, func(c *Config) {
		c.Rand = func() float64 { return 0.999 }
		c.MaxBackoff = time.Hour
		c.TLS = func() (*tls.Config, string, error) {
			asked <- struct{}{}
			return nil, "", errors.New("none yet")
		}
	})
	l.cfg.MaxBackoff = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	for range 5 { // the waits would add up to 31 s
		<-asked
		l.Reconnect()
	}
	if s := l.Status(); s.Connected {
		t.Errorf("status %+v", s)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("run ended with %v", err)
	}
}

func TestRefusalsAreToldOnceAMinuteAndAgainAfterReconnect(t *testing.T) {
	var told int
	l := newLink(t, func(c *Config) { c.OnRefused = func(string) { told++ } })
	for range 5 {
		l.report(&mqttconn.Refused{Code: 0x87, Reason: "x"})
		l.report(&mqttconn.Refused{Reason: "expired certificate"})
		l.report(&mqttconn.Refused{Code: 0x8B, Reason: "shutting down"})
		l.report(errors.New("network is down"))
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	l.Reconnect()
	l.report(&mqttconn.Refused{Code: 0x8B, Reason: "shutting down"})
	if told != 1 {
		t.Error("a broker that goes down was told as a refusal")
	}
	l.report(&mqttconn.Refused{Code: 0x87, Reason: "x"})
	if told != 2 {
		t.Errorf("told %d times", told)
	}
}

func TestConfigWithoutItsPartsIsRefused(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration was accepted")
	}
	if _, err := OpenOutbox("", DefaultLimits(), quiet()); err == nil {
		t.Error("an empty path was accepted")
	}
	if _, err := OpenOutbox(filepath.Join(t.TempDir(), "x"), Limits{}, quiet()); err == nil {
		t.Error("empty limits were accepted")
	}
}

func FuzzRecordsAreReadAsWrittenOrNotAtAll(f *testing.F) {
	good, _ := encodeRecord(record{Kind: wire.KindEvent, Body: json.RawMessage(`{"a":1}`)})
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := decodeRecord(again); err != nil || string(second.Body) != string(r.Body) && !json.Valid(r.Body) {
			t.Fatalf("%q: %v", data, err)
		}
	})
}
