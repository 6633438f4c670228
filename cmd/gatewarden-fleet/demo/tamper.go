package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

// tamper boots gateway 2 with an altered command line, then as it should be.
func tamper(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[1]
	old, err := os.ReadFile(g.path("state/identity/operational.pem"))
	if err != nil {
		return nil, err
	}
	if err := g.shutDown(); err != nil {
		return nil, err
	}
	if err := w.boot(ctx, g, alteredWords); err != nil {
		return nil, err
	}
	s, err := g.awaitStatus(ctx, "is in quarantine", func(s local.Status) bool {
		return s.Certificate != nil && s.Certificate.Identity == wire.QuarantineID(g.id) && s.Link.Connected && s.Link.Identity == wire.QuarantineID(g.id)
	})
	if err != nil {
		return nil, err
	}
	if s.Verdict == nil || s.Verdict.Grade != string(attest.Untrusted) || !strings.Contains(strings.Join(s.Verdict.Explanation, "\n"), alteredWords) {
		return nil, fmt.Errorf("the verdict does not show the altered words: %v", s.Verdict)
	}
	lines := append(indent(s.Verdict.Explanation, 4), fmt.Sprintf("certificate exchanged for a quarantine one (%s, %s)", s.Certificate.Identity, wire.ShortSerial(s.Certificate.Serial)))
	refusals, err := w.tryOldTopics(ctx, g, old)
	lines = append(lines, refusals...)
	if err != nil {
		return lines, err
	}
	if err := g.shutDown(); err != nil {
		return lines, err
	}
	if err := w.boot(ctx, g, ""); err != nil {
		return lines, err
	}
	s, err = g.awaitStatus(ctx, "has healed", func(s local.Status) bool {
		return s.Certificate != nil && s.Certificate.Identity == g.id && s.Link.Connected && s.Link.Identity == g.id &&
			s.Verdict != nil && s.Verdict.Grade == string(attest.Trusted)
	})
	if err != nil {
		return lines, err
	}
	return append(lines, fmt.Sprintf("booted as it should be, it healed without a person: %s, certificate %s for %s",
		s.Verdict.Grade, wire.ShortSerial(s.Certificate.Serial), s.Certificate.Identity)), nil
}

// tryOldTopics is an intruder on gateway 2, who can use its TPM: neither the old
// certificate nor the quarantine one lets them publish as the trusted gateway.
func (w *world) tryOldTopics(ctx context.Context, g *gateway, old []byte) ([]string, error) {
	chip, err := tpm.Open(ctx, "unix:"+g.tpmSocket())
	if err != nil {
		return nil, err
	}
	defer chip.Close()
	err = w.publishAs(ctx, chip, old, g.id, g.id)
	var refused *mqttconn.Refused
	if !errors.As(err, &refused) {
		return nil, fmt.Errorf("the broker took the old certificate (%v)", err)
	}
	lines := []string{"the broker refuses the old certificate: " + refused.Error()}
	now, err := os.ReadFile(g.path("state/identity/operational.pem"))
	if err != nil {
		return lines, err
	}
	if err = w.publishAs(ctx, chip, now, wire.QuarantineID(g.id), g.id); err == nil {
		return lines, errors.New("the broker let the quarantine certificate publish on the old topics")
	}
	return append(lines, "the quarantine certificate may not publish on the old topics: "+err.Error()), nil
}

// publishAs connects with a credential file and publishes a health message as victim.
func (w *world) publishAs(ctx context.Context, chip *tpm.TPM, credential []byte, identity, victim string) error {
	cert, err := clientCertificate(ctx, chip, credential)
	if err != nil {
		return err
	}
	roots, err := w.anchors()
	if err != nil {
		return err
	}
	conn, err := mqttconn.Dial(ctx, mqttconn.Options{
		URL: w.settings.Public.MQTT[0], TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert}},
		ClientID: identity, KeepAlive: time.Minute, SessionExpiry: time.Second, Timeout: 10 * time.Second,
		MaxTopic: wire.MaxTopic, MaxPayload: wire.MaxBody, MaxPacket: wire.MaxBody, OnMessage: func(mqttconn.Message) {},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Publish(ctx, mqttconn.Message{Topic: wire.UpTopic(victim, wire.KindHealth), Payload: []byte("{}"), QoS: 1})
}

// clientCertificate loads key and chain as the agent stored them.
func clientCertificate(ctx context.Context, chip *tpm.TPM, file []byte) (tls.Certificate, error) {
	cert := tls.Certificate{SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
	at := bytes.Index(file, []byte("-----BEGIN CERTIFICATE-----"))
	if at < 0 {
		return cert, errors.New("the gateway has no certificate")
	}
	for block, rest := pem.Decode(file[at:]); block != nil; block, rest = pem.Decode(rest) {
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	loaded, err := chip.LoadKey(ctx, file[:at])
	if err != nil {
		return cert, err
	}
	cert.PrivateKey = loaded
	return cert, nil
}

func (w *world) anchors() (*x509.CertPool, error) {
	raw, err := os.ReadFile(w.settings.State + "/ca/root.pem")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(raw)
	return roots, nil
}
