package gotpm_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"
	legacy "github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/gotpm"
)

// theirs are the attestations of real machines that go-tpm-tools tests itself with.
func theirs(t testing.TB, name string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tpm-tools").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "internal/test/attestations", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func policy(t testing.TB) *attest.Policy {
	t.Helper()
	raw, err := json.Marshal(attest.Policy{Version: 1, Issued: time.Now().UTC(), Fleet: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := attest.ParsePolicy(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var nonce9009 = []byte{0x90, 0x09}

func trusting(t *testing.T, f attest.Foreign) server.VerifyOpts {
	t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](f.AK)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	return server.VerifyOpts{TrustedAKs: []crypto.PublicKey{key}, Loader: server.GRUB, HashAlgo: legacy.AlgSHA256}
}

// Both verifiers accept the quotes, and say the same of the boot.
func TestAttestationsOfGoTPMToolsAreReadAsItsServerReadsThem(t *testing.T) {
	for name, nonce := range map[string][]byte{"gce-cos-85-no-nonce.pb": nil, "gce-cos-85-nonce9009.pb": nonce9009} {
		t.Run(name, func(t *testing.T) {
			raw := theirs(t, name)
			f, err := gotpm.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			var message pb.Attestation
			if err := proto.Unmarshal(raw, &message); err != nil {
				t.Fatal(err)
			}
			opts := trusting(t, f)
			opts.Nonce = nonce
			state, err := server.VerifyAttestation(&message, opts)
			if err != nil {
				t.Fatal(err)
			}
			carried, err := f.QuotedNonce()
			if err != nil || !bytes.Equal(carried, nonce) {
				t.Fatalf("the quote carries %x, %v", carried, err)
			}
			if nonce == nil {
				if _, err := attest.VerifyForeign(f, nil, attest.Expect{Policy: policy(t), Now: time.Now()}); err == nil {
					t.Error("a quote without nonce is judged")
				}
				return
			}
			r, err := attest.VerifyForeign(f, nonce, attest.Expect{Policy: policy(t), Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, r.Facts(), state)
		})
	}
}

func compare(t *testing.T, facts *attest.Facts, state *pb.MachineState) {
	t.Helper()
	if len(facts.Accounted) != 15-1 { // PCR 10 is the IMA list's
		t.Errorf("PCRs that replay: %v", facts.Accounted)
	}
	if on := state.GetSecureBoot().GetEnabled(); on != (facts.SecureBoot == "on") {
		t.Errorf("Secure Boot %s, go-tpm-tools says %t", facts.SecureBoot, on)
	}
	var ours, others []string
	for _, app := range facts.Applications {
		ours = append(ours, app.Digest.String())
	}
	for _, app := range state.GetEfi().GetApps() {
		others = append(others, attest.Digest(app.GetDigest()).String())
	}
	if !slices.Equal(ours, others) {
		t.Errorf("boot applications %v, go-tpm-tools has %v", ours, others)
	}
	if n := len(state.GetGrub().GetFiles()); n != len(facts.Files) {
		t.Errorf("%d files, go-tpm-tools has %d", len(facts.Files), n)
	}
	line := strings.TrimRight(state.GetLinuxKernel().GetCommandLine(), "\x00") // which GRUB logs and does not extend
	if len(facts.CommandLines) != 1 || facts.CommandLines[0].Text != line {
		t.Errorf("command lines %+v, go-tpm-tools has %q", facts.CommandLines, state.GetLinuxKernel().GetCommandLine())
	}
}

// A real machine that GRUB's command linux started is good by the reference values of
// its log, and a policy that has another file there names it.
func TestRealBootByGRUBIsJudgedByItsCommandsAndFiles(t *testing.T) {
	f, err := gotpm.Parse(theirs(t, "gce-cos-85-nonce9009.pb"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := attest.ParseEventLog(f.EventLog)
	if err != nil {
		t.Fatal(err)
	}
	release, err := log.Release("cos", "85")
	if err != nil {
		t.Fatal(err)
	}
	judge := func() *attest.Result {
		t.Helper()
		raw, err := json.Marshal(attest.Policy{Version: 1, Issued: time.Now().UTC(), Fleet: "lab", Releases: []attest.Release{release}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := attest.ParsePolicy(raw)
		if err != nil {
			t.Fatal(err)
		}
		r, err := attest.VerifyForeign(f, nonce9009, attest.Expect{Policy: p, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := judge(); r.Grade() != attest.Degraded || r.Facts().Release != "cos 85" { // its firmware is not approved
		t.Errorf("%s: %s", r.Grade(), strings.Join(r.Explanation(), "\n"))
	}
	file := &release.GRUB.Files[len(release.GRUB.Files)-1]
	file.Digest = attest.Digest{1}
	if r := judge(); r.Grade() != attest.Untrusted || !strings.Contains(r.Explanation()[0], "(described as "+file.Name+"), PCR 9, event ") ||
		!strings.HasPrefix(r.Explanation()[0], "untrusted: file ") {
		t.Errorf("%s: %s", r.Grade(), r.Explanation()[0])
	}
}

func TestForeignEvidenceIsRefusedForWhatItDoesNotProve(t *testing.T) {
	raw := theirs(t, "gce-cos-85-nonce9009.pb")
	judge := func(nonce []byte, change func(*attest.Foreign)) string {
		t.Helper()
		f, err := gotpm.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		f.Quote, f.Signature = bytes.Clone(f.Quote), bytes.Clone(f.Signature)
		change(&f)
		_, err = attest.VerifyForeign(f, nonce, attest.Expect{Policy: policy(t), Now: time.Now()})
		if refusal, ok := err.(*attest.Refusal); ok {
			return refusal.Rule
		}
		return "judged"
	}
	for want, change := range map[string]func(*attest.Foreign){
		"judged":    func(*attest.Foreign) {},
		"pcrs":      func(f *attest.Foreign) { delete(f.PCRs, 20) },
		"digest":    func(f *attest.Foreign) { f.PCRs[4] = attest.Digest{} },
		"key":       func(f *attest.Foreign) { f.AK = f.AK[1:] },
		"signature": func(f *attest.Foreign) { f.Quote[30] ^= 1 },
	} {
		if got := judge(nonce9009, change); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := judge([]byte{1}, func(*attest.Foreign) {}); got != "nonce" {
		t.Errorf("another nonce: %s", got)
	}
	if got := judge(nonce9009, func(f *attest.Foreign) { f.PCRs[30] = attest.Digest{} }); got != "pcrs" {
		t.Errorf("a PCR that was not quoted: %s", got)
	}
}

func TestMalformedAttestationIsRefused(t *testing.T) {
	raw := theirs(t, "gce-cos-85-nonce9009.pb")
	f, err := gotpm.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	twice := func(number uint64, body []byte) []byte {
		tag := binary.AppendUvarint(nil, number<<3|2)
		return append(append(binary.AppendUvarint(tag, uint64(len(body))), body...), raw...)
	}
	pcrs := &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: map[uint32][]byte{40: make([]byte, 32)}}
	far, err := proto.Marshal(&pb.Attestation{Quotes: []*tpmpb.Quote{{Quote: f.Quote, RawSig: f.Signature, Pcrs: pcrs}}})
	if err != nil {
		t.Fatal(err)
	}
	sha1, err := proto.Marshal(&pb.Attestation{AkPub: f.AK, Quotes: []*tpmpb.Quote{{Quote: f.Quote, Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA1}}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("quote: {"), "cut": raw[:len(raw)-5], "two keys": twice(1, f.AK), "two logs": twice(3, f.EventLog),
		"PCR 40": far, "SHA-1 alone": sha1, "too long": make([]byte, gotpm.MaxSize+1), "field 0": append([]byte{2, 0}, raw...),
		"a group": append([]byte{0x0b}, raw...), "a key that is a number": append([]byte{8, 1}, raw...),
	} {
		if _, err := gotpm.Parse(data); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Property: what is read is what the protocol buffer library reads.
func FuzzParse(f *testing.F) {
	f.Add(theirs(f, "gce-cos-85-nonce9009.pb"))
	f.Add(theirs(f, "gce-cos-85-no-nonce.pb"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, err := gotpm.Parse(data)
		if err != nil {
			return
		}
		var message pb.Attestation
		if err := proto.Unmarshal(data, &message); err != nil {
			return // strings that are not UTF-8, and fields that we do not look at
		}
		if !bytes.Equal(ours.AK, message.GetAkPub()) || !bytes.Equal(ours.EventLog, message.GetEventLog()) {
			t.Fatal("key or event log is another")
		}
		for _, q := range message.GetQuotes() {
			if q.GetPcrs().GetHash() != tpmpb.HashAlgo_SHA256 {
				continue
			}
			if !bytes.Equal(q.GetQuote(), ours.Quote) || !bytes.Equal(q.GetRawSig(), ours.Signature) {
				t.Fatal("quote or signature is another")
			}
			for pcr, value := range q.GetPcrs().GetPcrs() {
				if len(value) == 32 && ours.PCRs[int(pcr)] != attest.Digest(value) {
					t.Fatalf("PCR %d is another", pcr)
				}
			}
		}
	})
}
