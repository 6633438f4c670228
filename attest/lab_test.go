package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

const (
	labFleet  = "meadow"
	labDevice = "gw-abcdefghijklmnop"
	bootData  = "../testdata/boot"
)

func labNow() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

// lab is a gateway with a software key in the place of its TPM, booted as the
// recorded machine was, and what its fleet knows of it.
type lab struct {
	t      testing.TB
	key    *ecdsa.PrivateKey
	log    []byte
	ima    []byte
	phases []string
	pcr10  Digest
	clock  Clock
	claims Claims
	expect Expect
	policy Policy
	lists  map[Digest][]byte // of policy.IMA
}

// newLab returns a gateway whose boot is trusted.
func newLab(t testing.TB) *lab {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, key: key, log: readFile(t, bootData, "ovmf-uki.eventlog"), phases: []string{"sysinit", "ready"}}
	l.clock = Clock{Milliseconds: 1000, ResetCount: 7, RestartCount: 1, Safe: true}
	spki := strings.Repeat("5a", 32)
	l.claims = Claims{Version: 1, Keys: []string{spki}, Software: "1.0.0", Posture: "aa", Audit: "bb"}
	facts := l.facts(l.log)
	l.policy = Policy{Version: 1, Issued: labNow(), Fleet: labFleet, Releases: []Release{facts.release("gw", "1.0.0")}}
	l.expect = Expect{
		Fleet: labFleet, Device: labDevice, Nonce: []byte(strings.Repeat("n", 32)), AK: akPublic(key),
		Keys: []string{spki}, Channel: spki, Firmware: []FirmwareSet{facts.FirmwareSet("OVMF 2022.11")}, Now: labNow(),
	}
	return l
}

// facts of a log that is taken for true.
func (l *lab) facts(raw []byte) *Facts {
	log, err := ParseEventLog(raw)
	if err != nil {
		l.t.Fatal(err)
	}
	f := extractFacts(log, func(int) bool { return true })
	return &f
}

// akPublic is the TPMT_PUBLIC of a restricted P-256 signing key.
func akPublic(key *ecdsa.PrivateKey) []byte {
	x, y := coordinates(key)
	return tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y},
		}),
	})
}

func coordinates(key *ecdsa.PrivateKey) (x, y []byte) {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, nil
	}
	half := (len(point) - 1) / 2
	return point[1 : 1+half], point[1+half:]
}

// boot is what the TPM holds after the machine measured log.
func (l *lab) boot(raw []byte) map[int]Digest {
	log, err := ParseEventLog(raw)
	if err != nil {
		l.t.Fatal(err)
	}
	replay, err := log.Replay()
	if err != nil {
		l.t.Fatal(err)
	}
	pcrs := make(map[int]Digest)
	for _, pcr := range Selection() {
		pcrs[pcr] = replay[pcr]
	}
	pcrs[10] = l.pcr10
	for _, phase := range l.phases {
		pcrs[11] = Extend(pcrs[11], sha256.Sum256([]byte(phase)))
	}
	return pcrs
}

// evidence is what the device answers; the TPM measured l.log.
func (l *lab) evidence() Evidence { return l.evidenceOver(l.boot(l.log), nil) }

// evidenceOver quotes pcrs; change alters the quote before it is signed.
func (l *lab) evidenceOver(pcrs map[int]Digest, change func(*tpm2.TPMSAttest)) Evidence {
	claims, err := json.Marshal(l.claims)
	if err != nil {
		l.t.Fatal(err)
	}
	q := tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote,
		ExtraData: tpm2.TPM2BData{Buffer: QualifyingData(labFleet, labDevice, l.expect.Nonce, claims)},
		ClockInfo: tpm2.TPMSClockInfo{
			Clock: l.clock.Milliseconds, ResetCount: l.clock.ResetCount,
			RestartCount: l.clock.RestartCount, Safe: tpm2.TPMIYesNo(l.clock.Safe),
		},
		FirmwareVersion: l.clock.FirmwareVersion,
		Attested:        quoteInfo(tpm2.TPMAlgSHA256, pcrs, Selection()),
	}
	if change != nil {
		change(&q)
	}
	ev := Evidence{Version: 1, PCRs: pcrs, Claims: claims, EventLog: wholeLog(l.log), IMALog: wholeLog(l.ima)}
	ev.Quote = tpm2.Marshal(q)
	ev.Signature = l.sign(ev.Quote)
	return ev
}

func quoteInfo(bank tpm2.TPMAlgID, pcrs map[int]Digest, selection []int) tpm2.TPMUAttest {
	h := sha256.New()
	mask := make([]byte, 3)
	for _, pcr := range selection {
		value := pcrs[pcr]
		h.Write(value[:])
		mask[pcr/8] |= 1 << (pcr % 8)
	}
	return tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: mask}}},
		PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
	})
}

func (l *lab) sign(message []byte) []byte {
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, l.key, digest[:])
	if err != nil {
		l.t.Fatal(err)
	}
	return ecdsaSignature(r, s)
}

func ecdsaSignature(r, s *big.Int) []byte {
	return tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
		}),
	})
}

func wholeLog(data []byte) Log {
	if data == nil {
		return Log{}
	}
	return Log{Bytes: data, Digest: sha256.Sum256(data)}
}

// judge verifies ev by the lab's policy.
func (l *lab) judge(ev Evidence) (*Result, error) {
	l.t.Helper()
	e := l.expect
	e.Policy = l.parsed()
	return Verify(ev, e)
}

// parsed is the lab's policy as it is read from its document.
func (l *lab) parsed() *Policy {
	l.t.Helper()
	data, err := json.Marshal(l.policy)
	if err != nil {
		l.t.Fatal(err)
	}
	p, err := ParsePolicy(data)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := p.ReadLists(l.readList, nil); err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *lab) readList(list Digest) ([]byte, error) {
	data, ok := l.lists[list]
	if !ok {
		return nil, errors.New("there is none")
	}
	return data, nil
}

// allow has the policy say which files may run. An empty list is none.
func (l *lab) allow(list string, keys ...string) {
	l.policy.IMA = &IMAPolicy{Keys: keys}
	if list != "" {
		digest := hashOf([]byte(list))
		l.policy.IMA.Lists, l.lists = []Digest{digest}, map[Digest][]byte{digest: []byte(list)}
	}
}

// recorded is what is kept of ev.
func (l *lab) recorded(ev Evidence, trusted *Facts) *Recorded {
	ev.Nonce = l.expect.Nonce
	return &Recorded{
		Version: 1, Fleet: labFleet, Device: labDevice, At: labNow(), AK: l.expect.AK, Keys: l.expect.Keys,
		Firmware: l.expect.Firmware, Trusted: trusted, Evidence: ev,
	}
}

// want verifies ev and checks grade and, in the summary, text.
func (l *lab) want(ev Evidence, grade Grade, text string) *Result {
	l.t.Helper()
	r, err := l.judge(ev)
	if err != nil {
		l.t.Fatal(err)
	}
	if r.Grade() != grade || !strings.Contains(r.Explanation()[0], text) {
		l.t.Errorf("got %s, want %s with %q; explanation:\n%s", r.Grade(), grade, text, strings.Join(r.Explanation(), "\n"))
	}
	return r
}

// rewrite returns the log with each event passed through change; nil drops it.
func (l *lab) rewrite(change func(LogEvent) []LogEvent) []byte {
	log, err := ParseEventLog(l.log)
	if err != nil {
		l.t.Fatal(err)
	}
	out := NewEventLog()
	for _, e := range log.Events[1:] {
		for _, made := range change(e) {
			out = AppendEvent(out, made)
		}
	}
	return out
}

// withEvent returns the log with event n changed.
func (l *lab) withEvent(n int, change func(*LogEvent)) []byte {
	return l.rewrite(func(e LogEvent) []LogEvent {
		if e.Index == n {
			change(&e)
		}
		return []LogEvent{e}
	})
}

func hashOf(data []byte) Digest { return sha256.Sum256(data) }
