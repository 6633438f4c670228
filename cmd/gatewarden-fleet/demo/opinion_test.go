package demo

import (
	"bytes"
	"crypto"
	"testing"

	pb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestAnotherVerifierAgreesAboutTheDemosBoot has go-tpm-tools judge quote and event
// log of a gateway before any boot phase, which it does not know: it accepts them,
// finds our boot applications in them, and refuses an altered log and an old nonce.
func TestAnotherVerifierAgreesAboutTheDemosBoot(t *testing.T) {
	_, power := tpmtest.Start(t)
	raw, err := bootLog(newSoftware(version1, 1, 1).uki, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := extend(t.Context(), power, raw); err != nil {
		t.Fatal(err)
	}
	chip, err := tpm.Open(t.Context(), "unix:"+power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	ak, err := chip.CreateKey(t.Context(), tpm.AK)
	if err != nil {
		t.Fatal(err)
	}
	nonce := bytes.Repeat([]byte{7}, 32)
	quote, signature, err := chip.Quote(t.Context(), ak, nonce, attest.Selection())
	if err != nil {
		t.Fatal(err)
	}
	values, err := chip.ReadPCRs(t.Context(), attest.Selection())
	if err != nil {
		t.Fatal(err)
	}
	pcrs := &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: map[uint32][]byte{}}
	for pcr, value := range values {
		pcrs.Pcrs[uint32(pcr)] = value[:]
	}
	verify := func(log, nonce []byte) (*pb.MachineState, error) {
		return server.VerifyAttestation(&pb.Attestation{
			AkPub: ak.TPMPublic(), EventLog: log,
			Quotes: []*tpmpb.Quote{{Quote: quote, RawSig: signature, Pcrs: pcrs}},
		}, server.VerifyOpts{Nonce: nonce, TrustedAKs: []crypto.PublicKey{ak.Public()}})
	}
	state, err := verify(raw, nonce)
	if err != nil {
		t.Fatalf("the other verifier refuses the boot: %v", err)
	}
	if state.GetSecureBoot().GetEnabled() {
		t.Error("it sees Secure Boot where the recorded machine had none")
	}
	if n := len(state.GetRawEvents()); n == 0 {
		t.Error("it saw no event")
	}
	altered, err := bootLog(newSoftware(version1, 1, 1).uki, alteredWords)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(altered, nonce); err == nil {
		t.Error("it accepts the log of another boot")
	}
	if _, err := verify(raw, bytes.Repeat([]byte{8}, 32)); err == nil {
		t.Error("it accepts an old quote")
	}
}
