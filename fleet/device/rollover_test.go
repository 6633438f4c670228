package device_test

import (
	"net/http"
	"testing"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// A gateway with a certificate of the older generation goes on, and moves to the
// new one as it renews.
func TestCertificatesMoveToTheNewIntermediateAndNobodyIsCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	w.rollOver(false)
	claim := spkiOf(t, own.Leaf.PublicKey)
	b.attest(w.by(own), claim) // let in with the old one
	next := b.key()
	a := w.do(b.reenroll(own, next))
	if a.status != http.StatusOK {
		t.Fatalf("renewal: %d %s", a.status, a.body)
	}
	moved := b.certificate(a.body, next)
	if moved.Leaf.Issuer.CommonName != fleetID+" devices-2" {
		t.Errorf("renewed by %s", moved.Leaf.Issuer)
	}
	b.attest(w.by(moved), spkiOf(t, moved.Leaf.PublicKey))
	b.attest(w.by(own), claim) // good until it expires
}

func TestGatewayOfADroppedIntermediateRecoversByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.box()
	own := b.enrol()
	w.rollOver(true)
	if a, err := w.try(w.by(own)(wire.PathChallenge, struct{}{})); err == nil {
		t.Errorf("a certificate of the dropped intermediate opens the door: %d %s", a.status, a.body)
	}
	again := b.ticket()
	b.attest(again.call, spkiOf(t, again.key.Public()))
	if a := w.do(again.simpleEnroll()); a.status != http.StatusOK {
		t.Errorf("recovery: %d %s", a.status, a.body)
	}
}
