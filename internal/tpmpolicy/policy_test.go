package tpmpolicy_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
)

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keys(t testing.TB) map[string]crypto.Signer {
	return map[string]crypto.Signer{"P-256": ecKey(t, elliptic.P256()), "RSA 2048": rsaKey(t, 2048)}
}

func values(pcrs ...int) map[int]tpmpolicy.Digest {
	m := make(map[int]tpmpolicy.Digest)
	for _, pcr := range pcrs {
		m[pcr] = sha256.Sum256([]byte{byte(pcr)})
	}
	return m
}

func pcr(t testing.TB, d tpmpolicy.Digest, v map[int]tpmpolicy.Digest) tpmpolicy.Digest {
	t.Helper()
	d, err := d.PCR(v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// calculator is the library's way to the same digest.
func calculator(t *testing.T, steps ...interface {
	Update(*tpm2.PolicyCalculator) error
}) tpmpolicy.Digest {
	t.Helper()
	c, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if err := step.Update(c); err != nil {
			t.Fatal(err)
		}
	}
	return tpmpolicy.Digest(c.Hash().Digest)
}

func TestDigestsAreThoseOfTheLibrary(t *testing.T) {
	name, ref := bytes.Repeat([]byte{7}, 34), []byte("ref")
	list := func(pcrs ...uint) tpm2.TPMLPCRSelection {
		return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
	}
	h := sha256.New()
	for _, i := range []int{4, 11, 12, 13} {
		v := values(i)[i]
		h.Write(v[:])
	}
	onePCR := tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}, Pcrs: list(4, 11, 12, 13)}
	nv := tpm2.PolicyNV{
		NVIndex:  tpm2.NamedHandle{Handle: 0x01800001, Name: tpm2.TPM2BName{Buffer: name}},
		OperandB: tpm2.TPM2BOperand{Buffer: []byte{0, 0, 0, 0, 0, 0, 0, 5}}, Operation: tpm2.TPMEOEq,
	}
	authorize := tpm2.PolicyAuthorize{PolicyRef: tpm2.TPM2BDigest{Buffer: ref}, KeySign: tpm2.TPM2BName{Buffer: name}}
	signed := tpm2.PolicySigned{AuthObject: tpm2.NamedHandle{Name: tpm2.TPM2BName{Buffer: name}}, PolicyRef: tpm2.TPM2BNonce{Buffer: ref}}

	p := pcr(t, tpmpolicy.Digest{}, values(4, 11, 12, 13))
	if want := calculator(t, onePCR); p != want {
		t.Errorf("PCR: %s, want %s", p, want)
	}
	if got, want := p.Counter(name, 5), calculator(t, onePCR, nv); got != want {
		t.Errorf("NV: %s, want %s", got, want)
	}
	if got, want := p.Signed(name, ref), calculator(t, onePCR, signed); got != want {
		t.Errorf("signed: %s, want %s", got, want)
	}
	// The library's calculator does not forget; ours has nothing to forget.
	if got, want := tpmpolicy.Authorize(name, ref), calculator(t, authorize); got != want {
		t.Errorf("authorize: %s, want %s", got, want)
	}
	a, b := tpmpolicy.Digest{1}, tpmpolicy.Digest{2}
	got, err := tpmpolicy.Or([]tpmpolicy.Digest{a, b})
	if want := calculator(t, onePCR, tpm2.PolicyOr{PHashList: tpm2.TPMLDigest{Digests: []tpm2.TPM2BDigest{{Buffer: a[:]}, {Buffer: b[:]}}}}); err != nil || got != want {
		t.Errorf("or: %s %v, want %s", got, err, want)
	}
}

func TestKeyNamesAreThoseOfTheLibrary(t *testing.T) {
	for kind, key := range keys(t) {
		data, err := tpmpolicy.PublicArea(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if !bytes.Equal(tpm2.Marshal(*area), data) {
			t.Errorf("%s: encoded otherwise", kind)
		}
		want, err := tpm2.ObjectName(area)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tpmpolicy.KeyName(key.Public()); err != nil || !bytes.Equal(got, want.Buffer) {
			t.Errorf("%s: Name %x %v, want %x", kind, got, err, want.Buffer)
		}
		if back, err := tpm2.Pub(*area); err != nil || !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(back) {
			t.Errorf("%s: another key: %v", kind, err)
		}
	}
}

func TestOtherKeysAreRefused(t *testing.T) {
	wrong := rsaKey(t, 2048).PublicKey
	wrong.E = 3
	for name, key := range map[string]crypto.PublicKey{
		"P-384": &ecKey(t, elliptic.P384()).PublicKey, "RSA 3072": &rsaKey(t, 3072).PublicKey, "exponent 3": &wrong,
		"nil P-256": (*ecdsa.PublicKey)(nil), "nil RSA": (*rsa.PublicKey)(nil), "nothing": nil, "no number": &rsa.PublicKey{E: 65537},
	} {
		if _, err := tpmpolicy.PublicArea(key); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	good, err := tpmpolicy.MarshalKey(&ecKey(t, elliptic.P256()).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpmpolicy.ParseKey(good); err != nil {
		t.Error(err)
	}
	if _, err := tpmpolicy.ParseKey(append(good, 0)); err == nil {
		t.Error("bytes behind the key were accepted")
	}
}

func TestApprovalCountsForItsRefAndKeyOnly(t *testing.T) {
	all := keys(t)
	one := tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{11, 12, 13}}
	two := one
	two.Epoch = 2
	ref, other := digest(t, one), digest(t, two)
	for kind, key := range all {
		s, err := tpmpolicy.Approve(key, one, values(11, 12, 13))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(key.Public(), ref); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for otherKind, otherKey := range all {
			if otherKind != kind && s.Verify(otherKey.Public(), ref) == nil {
				t.Errorf("%s: verified by another key", kind)
			}
		}
		if s.Verify(key.Public(), other) == nil || s.Verify(key.Public(), nil) == nil {
			t.Errorf("%s: verified for another ref", kind)
		}
		altered := s
		altered.Policy[0] ^= 1
		if altered.Verify(key.Public(), ref) == nil {
			t.Errorf("%s: verified for another policy", kind)
		}
		altered = s
		altered.Signature = bytes.Clone(s.Signature)
		altered.Signature[len(altered.Signature)-1] ^= 1
		if altered.Verify(key.Public(), ref) == nil {
			t.Errorf("%s: verified with an altered signature", kind)
		}
	}
}

// Two refs that differ in any field have different digests: no field runs into the next.
func TestRefsDoNotRunIntoEachOther(t *testing.T) {
	small, four := []int{11, 12, 13}, []int{4, 11, 12, 13}
	seen := make(map[tpmpolicy.Digest]tpmpolicy.Ref)
	for _, r := range []tpmpolicy.Ref{
		{Product: "a", Channel: "b", Epoch: 1, PCRs: small}, {Product: "b", Channel: "a", Epoch: 1, PCRs: small},
		{Product: "a", Channel: "b", Epoch: 11, PCRs: small}, {Product: "a", Channel: "b1", Epoch: 1, PCRs: small},
		{Product: "a", Channel: "b", Epoch: 1, PCRs: four}, {Product: "a", Channel: "b", Epoch: 1, PCRs: small, Until: "ready"},
	} {
		d, err := r.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[d]; ok {
			t.Errorf("%v and %v are the same", before, r)
		}
		seen[d] = r
	}
	for _, r := range []tpmpolicy.Ref{
		{Channel: "b", Epoch: 1, PCRs: small}, {Product: "a|b", Channel: "c", Epoch: 1, PCRs: small}, {Product: "a", Channel: "b", PCRs: small},
		{Product: "a", Channel: "b", Epoch: 1}, {Product: "a", Channel: "b", Epoch: 1, PCRs: small, Until: "final"},
	} {
		if _, err := r.Digest(); err == nil {
			t.Errorf("%+v was accepted", r)
		}
	}
}

func TestPCR11AloneIsNeverSealedTo(t *testing.T) {
	for _, c := range []struct {
		pcrs   []int
		secure bool
		good   bool
	}{
		{[]int{11}, true, false}, {[]int{4, 11}, true, false}, {[]int{11, 12}, true, false}, {[]int{11, 12, 13}, true, true},
		{[]int{11, 12, 13}, false, false}, {[]int{4, 11, 12, 13}, false, true}, {[]int{0, 4, 11, 12, 13}, true, false},
		{[]int{2, 11, 12, 13}, true, false}, {[]int{7, 11, 12, 13}, true, false}, {[]int{12, 11, 13}, true, false},
		{[]int{11, 11, 12, 13}, true, false}, {nil, true, false}, {[]int{4, 8, 9, 11, 12, 13, 14}, false, true},
	} {
		if err := tpmpolicy.CheckPCRs(c.pcrs, c.secure); (err == nil) != c.good {
			t.Errorf("%v, Secure Boot %v: %v", c.pcrs, c.secure, err)
		}
	}
}

func TestWrongInputIsAnError(t *testing.T) {
	if _, err := (tpmpolicy.Digest{}).PCR(nil); err == nil {
		t.Error("a policy over no PCR")
	}
	if _, err := (tpmpolicy.Digest{}).PCR(values(24)); err == nil {
		t.Error("PCR 24")
	}
	if _, err := tpmpolicy.Or(nil); err == nil {
		t.Error("or of nothing")
	}
	if _, err := tpmpolicy.Or(make([]tpmpolicy.Digest, 9)); err == nil {
		t.Error("or of nine")
	}
	ref := tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{11, 12, 13}}
	if _, err := tpmpolicy.Approve(ecKey(t, elliptic.P384()), ref, values(11, 12, 13)); err == nil {
		t.Error("approved with P-384")
	}
}

// TestWeakPoliciesAreNeverSigned: a chip takes whatever was signed for a ref.
func TestWeakPoliciesAreNeverSigned(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	ref := tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{4, 11, 12, 13}}
	alone := ref
	alone.PCRs = []int{11}
	unmeasured := values(4, 11, 12, 13)
	unmeasured[11] = tpmpolicy.Digest{}
	for name, c := range map[string]struct {
		ref    tpmpolicy.Ref
		values map[int]tpmpolicy.Digest
	}{
		"PCR 11 alone": {alone, values(11)}, "fewer than named": {ref, values(11)}, "without 4": {ref, values(11, 12, 13)},
		"more than named": {ref, values(0, 4, 11, 12, 13)}, "nothing measured": {ref, unmeasured}, "none": {ref, nil},
	} {
		if _, err := tpmpolicy.Approve(key, c.ref, c.values); err == nil {
			t.Errorf("%s was signed", name)
		}
	}
}

func digest(t testing.TB, r tpmpolicy.Ref) []byte {
	t.Helper()
	d, err := r.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d[:]
}

// The same facts always give the same ref: a change here would lose every sealed secret.
func ExampleRef_Digest() {
	ref := tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 2, PCRs: []int{4, 11, 12, 13}}
	digest, err := ref.Digest()
	fmt.Println(digest, err)
	// Output: 598ef28d9363bc701617964367f90fd9b428bef08be70171f7147cb92136aa39 <nil>
}
