package years

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

// knock shows a credential at both doors of the fleet, as somebody would who is
// root on the gateway and kept its files: fresh connections, by the true time. It
// returns why the API and the broker refuse it, nil for one that does not.
func (g *gateway) knock(c identity.Credential) (api, broker error) {
	g.Helper()
	chip, err := tpm.Open(g.Context(), "unix:"+g.power.Socket)
	g.must(err)
	defer chip.Close()
	key, err := chip.LoadKey(g.Context(), c.Key.PEM())
	g.must(err)
	own := tls.Certificate{PrivateKey: key, Leaf: c.Leaf(), SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
	for _, cert := range c.Chain {
		own.Certificate = append(own.Certificate, cert.Raw)
	}
	roots := x509.NewCertPool()
	for _, anchor := range g.trusted.Anchors {
		roots.AppendCertsFromPEM([]byte(anchor))
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Time: g.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
	}
	return g.knockAPI(config), g.knockBroker(config, c.Identity)
}

func (g *gateway) knockAPI(config *tls.Config) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Post(g.trusted.API[0]+wire.PathChallenge, "application/json", bytes.NewReader([]byte("{}")))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the API answers %s", resp.Status)
	}
	return nil
}

func (g *gateway) knockBroker(config *tls.Config, clientID string) error {
	conn, err := mqttconn.Dial(g.Context(), mqttconn.Options{
		URL: g.trusted.Broker[0], TLS: config, ClientID: clientID, KeepAlive: 30 * time.Second, SessionExpiry: time.Minute, Timeout: patience,
		MaxTopic: wire.MaxTopic, MaxPayload: wire.MaxBody, MaxPacket: wire.MaxMessage, OnMessage: func(mqttconn.Message) {},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Publish(g.Context(), mqttconn.Message{Topic: wire.UpTopic(clientID, wire.KindHealth), Payload: []byte("{}"), QoS: 1})
}

// welcome fails unless both doors take c.
func (g *gateway) welcome(c identity.Credential) {
	g.Helper()
	if api, broker := g.knock(c); api != nil || broker != nil {
		g.Fatalf("%s: the certificate for %s until %s is refused by the API (%v) or the broker (%v)", g.Now(), c.Identity, c.Leaf().NotAfter, api, broker)
	}
}

// refused fails unless both doors refuse c.
func (g *gateway) refused(c identity.Credential, why string) {
	g.Helper()
	if api, broker := g.knock(c); api == nil || broker == nil {
		g.Fatalf("%s: the certificate for %s, which is %s, passes at the API (%v) or the broker (%v)", g.Now(), c.Identity, why, api, broker)
	}
}
