package fleet

import (
	"crypto/ed25519"
	"log/slog"
	"strings"
	"testing"
)

const brokerSection = "[broker]\naddresses = [\"mqtts://broker.example:8883\"]\n"

func TestServerOfAnExternalBrokerTakesNoPortAndNoName(t *testing.T) {
	s := installed(t)
	s.Listen.MQTT = "no address"
	s.Public.MQTT = []string{"mqtts://broker.example:8883"}
	s.Broker.Addresses = s.Public.MQTT
	srv, err := New(s, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	cert, err := srv.service.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Leaf.VerifyHostname("broker.example") == nil {
		t.Error("its certificate is good for the broker's name too")
	}
	srv.drop("gw-a")
	srv.drop("gw-a") // nobody waits
}

func TestUnusableFilesForTheBrokerAreSaidAtStart(t *testing.T) {
	for want, change := range map[string]func(b *Broker){
		"`broker.ca`":          func(b *Broker) { b.CA = "/nonexistent" },
		"holds no certificate": func(b *Broker) { b.CA = "/dev/null" },
		"`broker.certificate`": func(b *Broker) { b.Certificate, b.Key = "/nonexistent", "/nonexistent" },
	} {
		s := installed(t)
		s.Broker.Addresses = s.Public.MQTT
		change(&s.Broker)
		srv, err := New(s, "test", slog.New(slog.DiscardHandler))
		if err == nil {
			srv.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestNobodyCanGuessTheFleetsShare(t *testing.T) {
	one, replica := ed25519.NewKeyFromSeed(make([]byte, 32)), ed25519.NewKeyFromSeed(make([]byte, 32))
	other := ed25519.NewKeyFromSeed([]byte("01234567890123456789012345678901"))
	if shareGroup(one) != shareGroup(replica) {
		t.Error("replicas do not share")
	}
	if name := shareGroup(one); name == shareGroup(other) || len(name) != len("fleet-")+32 || strings.ContainsAny(name, "/+#") {
		t.Errorf("share %q", name)
	}
}
