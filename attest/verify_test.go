package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

func TestRecordedBootIsTrusted(t *testing.T) {
	l := newLab(t)
	r := l.want(l.evidence(), Trusted, "trusted: release gw 1.0.0, firmware approved, Secure Boot off")
	if f := r.Facts(); f.Release != "gw 1.0.0" || !slices.Equal(f.Phases, l.phases) || !f.ExitBootServices {
		t.Errorf("facts: %+v", f)
	}
	want := l.clock
	want.Key = hashOf(l.expect.AK)
	if r.Clock() != want || r.Claims().Software != "1.0.0" {
		t.Errorf("clock %+v, claims %+v", r.Clock(), r.Claims())
	}
}

// CVE-2022-0317, CVE-2024-29039.
func TestQuoteOverOtherPCRsIsRefused(t *testing.T) {
	l := newLab(t)
	pcrs := l.boot(l.log)
	selections := map[string]func(*tpm2.TPMSAttest){
		"none":       func(q *tpm2.TPMSAttest) { q.Attested = quoteInfo(tpm2.TPMAlgSHA256, pcrs, nil) },
		"fewer":      func(q *tpm2.TPMSAttest) { q.Attested = quoteInfo(tpm2.TPMAlgSHA256, pcrs, Selection()[1:]) },
		"more":       func(q *tpm2.TPMSAttest) { q.Attested = quoteInfo(tpm2.TPMAlgSHA256, pcrs, append(Selection(), 15)) },
		"other bank": func(q *tpm2.TPMSAttest) { q.Attested = quoteInfo(tpm2.TPMAlgSHA1, pcrs, Selection()) },
		"two banks": func(q *tpm2.TPMSAttest) {
			info, err := q.Attested.Quote()
			if err != nil {
				t.Fatal(err)
			}
			list := append(info.PCRSelect.PCRSelections, tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA1, PCRSelect: []byte{1, 0, 0}})
			q.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
				PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: list}, PCRDigest: info.PCRDigest,
			})
		},
		"empty list": func(q *tpm2.TPMSAttest) {
			q.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{})
		},
	}
	for name, change := range selections {
		t.Run(name, func(t *testing.T) {
			_, err := l.judge(l.evidenceOver(pcrs, change))
			wantRefusal(t, err, "selection")
		})
	}
}

func TestPCRValuesOutsideTheSignedSelectionAreRefused(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	ev.PCRs[15] = Digest{}
	_, err := l.judge(ev)
	wantRefusal(t, err, "pcrs")
	delete(ev.PCRs, 15)
	delete(ev.PCRs, 14)
	_, err = l.judge(ev)
	wantRefusal(t, err, "pcrs")
	ev.PCRs[14] = Digest{1}
	_, err = l.judge(ev)
	wantRefusal(t, err, "digest")
}

// CVE-2024-29038.
func TestQuoteWithoutTheTPMsMagicIsRefused(t *testing.T) {
	l := newLab(t)
	_, err := l.judge(l.evidenceOver(l.boot(l.log), func(q *tpm2.TPMSAttest) { q.Magic = 0xff544346 }))
	wantRefusal(t, err, "magic")
}

// GHSA-x5j2-26fc-hhc3.
func TestOtherAttestationsAreNoQuotes(t *testing.T) {
	l := newLab(t)
	for _, kind := range []tpm2.TPMST{tpm2.TPMSTAttestCertify, tpm2.TPMSTAttestCreation, tpm2.TPMSTAttestTime, 0x8019} {
		ev := l.evidence()
		ev.Quote[4], ev.Quote[5] = byte(kind>>8), byte(kind)
		ev.Signature = l.sign(ev.Quote)
		_, err := l.judge(ev)
		wantRefusal(t, err, "type")
	}
	ev := l.evidenceOver(l.boot(l.log), func(q *tpm2.TPMSAttest) {
		q.Type = tpm2.TPMSTAttestCertify
		q.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{})
	})
	_, err := l.judge(ev)
	wantRefusal(t, err, "type")
}

func TestBytesBehindTheQuoteAreRefused(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	ev.Quote = append(ev.Quote, 0)
	ev.Signature = l.sign(ev.Quote)
	_, err := l.judge(ev)
	wantRefusal(t, err, "format")
	ev = l.evidence()
	ev.Signature = append(ev.Signature, 0)
	_, err = l.judge(ev)
	wantRefusal(t, err, "signature")
}

// CVE-2023-3674: one-bit changes anywhere in what is signed or hashed never pass.
func TestFlippingAnyBitIsNoticed(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	parts := map[string][]byte{"quote": ev.Quote, "signature": ev.Signature, "claims": ev.Claims, "event log": ev.EventLog.Bytes}
	expect := l.expect
	expect.Policy = l.parsed()
	for name, part := range parts {
		step := 1
		if name == "event log" {
			step = 9 // a bit of nearly every byte: it is one hash that fails
		}
		for i := 0; i < 8*len(part); i += step {
			bit := byte(1) << (i % 8)
			part[i/8] ^= bit
			if _, err := Verify(ev, expect); err == nil {
				t.Errorf("%s: bit %d changed, accepted", name, i)
			}
			part[i/8] ^= bit
		}
	}
	for _, pcr := range Selection() {
		was := ev.PCRs[pcr]
		ev.PCRs[pcr] = Extend(was, was)
		_, err := l.judge(ev)
		wantRefusal(t, err, "digest")
		ev.PCRs[pcr] = was
	}
	if _, err := l.judge(ev); err != nil {
		t.Errorf("the unchanged evidence: %v", err)
	}
}

// A log that was changed together with its digest, bit by bit: what no digest
// covers may change, but then facts are lost at most, and none becomes another.
func TestFlippingAnyBitOfTheLogMakesNoFalseFact(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	good := l.want(ev, Trusted, "")
	log := slices.Clone(ev.EventLog.Bytes)
	step := 3
	if testing.Short() {
		step = 31
	}
	for i := 0; i < len(log); i += step {
		log[i] ^= 1 << (i % 8)
		ev.EventLog = wholeLog(log)
		r, err := l.judge(ev)
		if err != nil {
			t.Fatal(err)
		}
		if r.Grade() == Trusted {
			for _, change := range Diff(good.Facts(), r.Facts()) {
				if !strings.Contains(change, " is gone") && !strings.Contains(change, "no digest covers") && !strings.Contains(change, "became `unknown`") {
					t.Errorf("byte %d: trusted, but %s", i, change)
				}
			}
		}
		log[i] ^= 1 << (i % 8)
	}
}

// CVE-2026-6420, veraison#427, kairos#4828.
func TestOldQuoteFails(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	l.expect.Nonce = []byte(strings.Repeat("m", 32))
	_, err := l.judge(ev)
	wantRefusal(t, err, "nonce")
	for _, nonce := range [][]byte{nil, {}, make([]byte, 31)} {
		l.expect.Nonce = nonce
		if _, err := l.judge(ev); err == nil {
			t.Errorf("a nonce of %d bytes is judged by", len(nonce))
		}
	}
}

func TestQuoteOfAnotherDeviceFleetOrClaimsFails(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	l.expect.Device = "gw-ponmlkjihgfedcba"
	_, err := l.judge(ev)
	wantRefusal(t, err, "nonce")
	l.expect.Device, l.expect.Fleet, l.policy.Fleet = labDevice, "other", "other"
	_, err = l.judge(ev)
	wantRefusal(t, err, "nonce")
	l.expect.Fleet, l.policy.Fleet = labFleet, labFleet
	ev.Claims = []byte(strings.Replace(string(ev.Claims), "1.0.0", "9.0.0", 1))
	_, err = l.judge(ev)
	wantRefusal(t, err, "nonce")
	other := newLab(t)
	other.expect.AK = l.expect.AK
	_, err = other.judge(other.evidence())
	wantRefusal(t, err, "signature")
}

func TestEvidenceOfAnotherVersionIsRefused(t *testing.T) {
	l := newLab(t)
	for _, version := range []int{0, 2} {
		ev := l.evidence()
		ev.Version = version
		_, err := l.judge(ev)
		wantRefusal(t, err, "version")
	}
}

// GO-2023-1583.
func TestRelayedEvidenceFails(t *testing.T) {
	l := newLab(t)
	l.expect.Channel = strings.Repeat("66", 32)
	l.expect.Keys = append(l.expect.Keys, l.expect.Channel)
	_, err := l.judge(l.evidence())
	wantRefusal(t, err, "channel")
}

func TestClaimsNameOnlyRegisteredKeys(t *testing.T) {
	l := newLab(t)
	l.claims.Keys = append(l.claims.Keys, strings.Repeat("66", 32))
	_, err := l.judge(l.evidence())
	wantRefusal(t, err, "keys")
	l.expect.Keys = append(l.expect.Keys, strings.Repeat("66", 32))
	l.want(l.evidence(), Trusted, "") // two during rotation
	l.claims.Keys = nil
	_, err = l.judge(l.evidence())
	wantRefusal(t, err, "claims")
}

func TestLogsThatAreNotWholeAreRefused(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	ev.EventLog.Offset = 1
	_, err := l.judge(ev)
	wantRefusal(t, err, "log")
	ev.EventLog = Log{Digest: hashOf(l.log)}
	_, err = l.judge(ev)
	wantRefusal(t, err, "log")
	ev.EventLog = wholeLog(make([]byte, maxEventLog+1))
	_, err = l.judge(ev)
	wantRefusal(t, err, "log")
}

func TestKeyThatSignsMoreThanQuotesIsRefused(t *testing.T) {
	l := newLab(t)
	good := l.expect.AK
	attributes := map[string]func(*tpm2.TPMAObject){
		"not restricted":    func(a *tpm2.TPMAObject) { a.Restricted = false },
		"not fixed":         func(a *tpm2.TPMAObject) { a.FixedTPM = false },
		"parent not fixed":  func(a *tpm2.TPMAObject) { a.FixedParent = false },
		"imported":          func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false },
		"does not sign":     func(a *tpm2.TPMAObject) { a.SignEncrypt = false },
		"decrypts also":     func(a *tpm2.TPMAObject) { a.Decrypt = true },
		"unchanged control": nil,
	}
	for name, change := range attributes {
		public, err := tpm2.Unmarshal[tpm2.TPMTPublic](good)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(&public.ObjectAttributes)
		}
		if _, err = parseAK(tpm2.Marshal(public)); (err == nil) != (change == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parseAK(append(slices.Clone(good), 0)); err == nil {
		t.Error("a byte behind the public area is accepted")
	}
	off := slices.Clone(good)
	off[len(off)-1] ^= 1
	if _, err := parseAK(off); err == nil {
		t.Error("a point off the curve is accepted")
	}
}

// P-384 costs eleven times as much to verify.
func TestP384KeyIsRefused(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](newLab(t).expect.AK)
	if err != nil {
		t.Fatal(err)
	}
	parms, err := public.Parameters.ECCDetail()
	if err != nil {
		t.Fatal(err)
	}
	parms.CurveID = tpm2.TPMECCNistP384
	public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, parms)
	x, y := coordinates(key)
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y},
	})
	if _, err := parseAK(tpm2.Marshal(public)); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("got %v", err)
	}
}

func TestRSA2048KeyIsAccepted(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t)
	ev := l.evidence()
	digest := sha256.Sum256(ev.Quote)
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, 5, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	ev.Signature = tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
		&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: sig}})})
	l.expect.AK = rsaPublic(key)
	l.want(ev, Trusted, "")
	ev.Signature[10] ^= 1
	_, err = l.judge(ev)
	wantRefusal(t, err, "signature")
}

func rsaPublic(key *rsa.PrivateKey) []byte {
	return tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{
				Scheme:  tpm2.TPMAlgRSASSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			KeyBits: 2048,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()}),
	})
}

func TestVerifyRefusesToJudgeByHalf(t *testing.T) {
	l := newLab(t)
	ev := l.evidence()
	good := l.expect
	changes := map[string]func(*Expect){
		"no device": func(e *Expect) { e.Device = "" },
		"no time":   func(e *Expect) { e.Now = time.Time{} },
		"no key":    func(e *Expect) { e.AK = nil },
	}
	for name, change := range changes {
		l.expect = good
		change(&l.expect)
		if _, err := l.judge(ev); err == nil {
			t.Errorf("%s: judged", name)
		}
	}
	if _, err := Verify(ev, good); err == nil {
		t.Error("judged without a policy")
	}
	e := good
	e.Policy = &Policy{Version: 1, Fleet: labFleet}
	if _, err := Verify(ev, e); err == nil {
		t.Error("judged by a policy that was never checked")
	}
}

func TestFactsAndMemorySurviveJSON(t *testing.T) {
	l := newLab(t)
	r := l.want(l.evidence(), Trusted, "")
	memory := r.Remember(nil)
	data, err := json.Marshal(memory)
	if err != nil {
		t.Fatal(err)
	}
	var back Memory
	if err := decodeStrict(data, &back); err != nil {
		t.Fatal(err)
	}
	if changes := Diff(memory.Trusted, back.Trusted); len(changes) > 0 || back.Clock != memory.Clock {
		t.Errorf("changed by JSON: %v", changes)
	}
	if len(data) > 16<<10 {
		t.Errorf("%d bytes are kept of one device", len(data))
	}
}

func TestCachedLogChangesNoVerdict(t *testing.T) {
	l := newLab(t)
	cache, err := NewLogCache(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := l.boot(l.log)
	falsified := l.withEvent(3, func(e *LogEvent) { e.Digest[0] ^= 1 })
	for round := range 3 {
		l.expect.Logs = cache
		if round == 0 {
			l.expect.Logs = nil
		}
		good := l.evidenceOver(pcrs, nil)
		if round == 2 {
			good.EventLog.Bytes = nil // the cache has them
		}
		l.want(good, Trusted, "trusted: release gw 1.0.0, firmware approved, Secure Boot off")
		bad := good
		bad.EventLog = wholeLog(falsified)
		l.want(bad, Untrusted, "event 3 (EV_EFI_PLATFORM_FIRMWARE_BLOB) was altered")
	}
}

// Bytes under another log's digest must neither be read nor be remembered.
func TestCacheIsNotPoisoned(t *testing.T) {
	l := newLab(t)
	cache, err := NewLogCache(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	l.expect.Logs = cache
	ev := l.evidence()
	evil := ev
	evil.EventLog.Bytes = l.withCommandLine("init=/bin/sh")
	_, err = l.judge(evil)
	wantRefusal(t, err, "log")
	if cache.Has(evil.EventLog.Digest) {
		t.Fatal("remembered under a false digest")
	}
	l.want(ev, Trusted, "")
	l.want(evil, Trusted, "") // what the digest names is known: the bytes are not looked at
	small, err := NewLogCache(3 * (4096 + 4*len(l.log)))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		small.add(&knownLog{digest: Digest{byte(n)}, size: 4096 + 4*len(l.log)})
	}
	if small.Has(Digest{6}) || !small.Has(Digest{9}) || !small.Has(Digest{7}) || small.order.Len() != 3 {
		t.Error("the cache is not bounded, or forgets the latest")
	}
}
