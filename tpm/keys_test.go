package tpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestAutomaticKeysNeverCountTowardsALockout, and can't leave the chip.
func TestAutomaticKeysNeverCountTowardsALockout(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	for _, role := range []tpm.Role{tpm.AK, tpm.Operational} {
		key := must(chip.CreateKey(t.Context(), role))(t)
		area := must(tpm2.Unmarshal[tpm2.TPMTPublic](key.TPMPublic()))(t)
		a := area.ObjectAttributes
		if !a.NoDA || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.UserWithAuth {
			t.Errorf("role %d: attributes %+v", role, a)
		}
		if a.Restricted != (role == tpm.AK) || !a.SignEncrypt || a.Decrypt {
			t.Errorf("role %d: may sign what it should not: %+v", role, a)
		}
		if name := must(tpm2.ObjectName(area))(t); !bytes.Equal(name.Buffer, key.Name()) {
			t.Errorf("role %d: Name is not that of the public area", role)
		}
	}
}

func TestKeyFileLoadsOnTheSameChipAfterAPowerCycle(t *testing.T) {
	machine, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	if err := chip.Close(); err != nil {
		t.Fatal(err)
	}
	if err := power.Off(); err != nil {
		t.Fatal(err)
	}
	chip, _ = connect(t, tpmtest.PowerOn(t, machine))
	ak2 := must(chip.LoadKey(t.Context(), ak.PEM()))(t)
	key2 := must(chip.LoadKey(t.Context(), key.PEM()))(t)
	if !key2.Public().(*ecdsa.PublicKey).Equal(key.Public()) || ak2.Role() != tpm.AK || !bytes.Equal(ak2.PEM(), ak.PEM()) {
		t.Fatal("another key came back")
	}
	info, sig, err := chip.Certify(t.Context(), ak2, key2, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	verify(t, ak, info, sig)
}

func TestForeignKeyFileIsReplaced(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	_, otherPower := tpmtest.Start(t)
	other, _ := connect(t, otherPower)
	key := must(other.CreateKey(t.Context(), tpm.AK))(t)
	if _, err := chip.LoadKey(t.Context(), key.PEM()); !errors.Is(err, tpm.ErrReplaced) {
		t.Fatalf("foreign key: %v", err)
	}
}

// TestClearedChipIsNamed: a key of before TPM2_Clear is ErrReplaced; the EK stays.
func TestClearedChipIsNamed(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ek := must(chip.EK(t.Context(), "ecc-p256"))(t)
	key := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	_ = chip.Close()
	raw := dial(t, power)
	must(tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(raw))(t)
	chip, _ = connect(t, power)
	if _, err := chip.LoadKey(t.Context(), key.PEM()); !errors.Is(err, tpm.ErrReplaced) {
		t.Fatalf("key of before the clear: %v", err)
	}
	if now := must(chip.EK(t.Context(), "ecc-p256"))(t); !bytes.Equal(now.Name, ek.Name) {
		t.Fatal("the EK changed")
	}
}

// TestChipClearedInUseIsNamedAndUsableAgain: by somebody else, with keys loaded and
// saved; every use of them says so, and new ones work on the same connection.
func TestChipClearedInUseIsNamedAndUsableAgain(t *testing.T) {
	for _, spare := range []int{0, 1, 3} { // which keys are in the chip, and which are saved
		_, power := tpmtest.Start(t)
		chip, _ := connect(t, power)
		ek := must(chip.EK(t.Context(), "ecc-p256"))(t)
		ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
		key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
		for range spare {
			must(chip.CreateKey(t.Context(), tpm.Operational))(t)
		}
		must(tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(dial(t, power)))(t)
		digest := sha256.Sum256(nil)
		for range 2 {
			if _, err := key.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, tpm.ErrReplaced) {
				t.Errorf("%d spare keys: sign: %v", spare, err)
			}
			if _, _, err := chip.Quote(t.Context(), ak, nil, pcrs()); !errors.Is(err, tpm.ErrReplaced) {
				t.Errorf("%d spare keys: quote: %v", spare, err)
			}
			if _, _, err := chip.Certify(t.Context(), ak, key, nil); !errors.Is(err, tpm.ErrReplaced) {
				t.Errorf("%d spare keys: certify: %v", spare, err)
			}
			blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
			if _, err := chip.Activate(t.Context(), ek, ak, blob, secret); !errors.Is(err, tpm.ErrReplaced) {
				t.Errorf("%d spare keys: activate: %v", spare, err)
			}
		}
		if _, err := chip.LoadKey(t.Context(), ak.PEM()); !errors.Is(err, tpm.ErrReplaced) {
			t.Errorf("load: %v", err)
		}
		if err := enrolAndAttest(t.Context(), t, chip); err != nil {
			t.Errorf("%d spare keys: enrol again: %v", spare, err)
		}
	}
}

// TestDamagedKeyFileIsDamaged: every truncation, and a change at every place of the
// block, is told from a foreign key.
func TestDamagedKeyFileIsDamaged(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	good := must(chip.CreateKey(t.Context(), tpm.Operational))(t).PEM()
	start := bytes.Index(good, []byte("-----BEGIN"))
	for i := start; i < len(good)-2; i++ {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := chip.LoadKey(t.Context(), bad); !errors.Is(err, tpm.ErrDamaged) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := chip.LoadKey(t.Context(), good[:i]); !errors.Is(err, tpm.ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := chip.LoadKey(t.Context(), nil); !errors.Is(err, tpm.ErrDamaged) {
		t.Fatalf("empty file: %v", err)
	}
}

// TestKeyFileOfOtherToolsLoads: the line before the block may be missing.
func TestKeyFileOfOtherToolsLoads(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	block, rest := pem.Decode(must(chip.CreateKey(t.Context(), tpm.Operational))(t).PEM())
	if block == nil || len(rest) != 0 {
		t.Fatal("no PEM block")
	}
	must(chip.LoadKey(t.Context(), pem.EncodeToMemory(block)))(t)
	flipped := bytes.Clone(block.Bytes)
	flipped[len(flipped)-1] ^= 1
	_, err := chip.LoadKey(t.Context(), pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: flipped}))
	if !errors.Is(err, tpm.ErrReplaced) && !errors.Is(err, tpm.ErrDamaged) {
		t.Fatalf("flipped bit without checksum: %v", err)
	}
}

// TestOpenSSLReadsTheKeyFile as the ASN.1 that its TPM 2.0 providers expect.
func TestOpenSSLReadsTheKeyFile(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, must(chip.CreateKey(t.Context(), tpm.Operational))(t).PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	out := string(must(exec.Command(openssl, "asn1parse", "-in", path).CombinedOutput())(t))
	// Part of the format: id-loadablekey, emptyAuth, and TPM_RH_OWNER as parent.
	for _, want := range []string{":2.23.133.10.1.3", "cont [ 0 ]", ":40000001", "OCTET STRING"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestPersistentSRKIsUsedAndNeverTouched, if it is the standard one.
func TestPersistentSRKIsUsedAndNeverTouched(t *testing.T) {
	odd := tpm2.ECCSRKTemplate
	odd.ObjectAttributes.NoDA = false
	for name, c := range map[string]struct {
		template tpm2.TPMTPublic
		parent   string
	}{
		"standard ECC": {tpm2.ECCSRKTemplate, "81000001"},
		"standard RSA": {tpm2.RSASRKTemplate, "81000001"},
		"odd":          {odd, "40000001"},
	} {
		t.Run(name, func(t *testing.T) {
			_, power := tpmtest.Start(t)
			raw := dial(t, power)
			before := persist(t, raw, tpm2.TPMRHOwner, c.template, 0x81000001)
			chip, _ := connect(t, power)
			ek := must(chip.EK(t.Context(), ""))(t)
			ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
			key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
			next := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
			blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
			must(chip.Activate(t.Context(), ek, ak, blob, secret))(t)
			for _, k := range []*tpm.Key{ak, key, next} {
				if got := parentOf(t, k.PEM()); got != c.parent {
					t.Errorf("parent %s", got)
				}
				must(chip.LoadKey(t.Context(), k.PEM()))(t)
			}
			after := must(tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81000001)}.Execute(raw))(t)
			if !bytes.Equal(after.Name.Buffer, before) {
				t.Fatal("the persistent key changed")
			}
		})
	}
}

func parentOf(t *testing.T, file []byte) string {
	t.Helper()
	block, _ := pem.Decode(file)
	for _, parent := range []string{"40000001", "81000001"} {
		// INTEGER of the handle; with a leading zero as the top bit is set
		if bytes.Contains(block.Bytes, must(hexBytes(parent))(t)) {
			return parent
		}
	}
	return "unknown"
}

func TestKeysSignWhatTheyMayAndNothingElse(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	digest := sha256.Sum256([]byte("message"))
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	if _, err := ak.Sign(nil, digest[:], crypto.SHA256); err == nil {
		t.Error("the AK signed what software gave it")
	}
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	sig := must(key.Sign(nil, digest[:], crypto.SHA256))(t)
	if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("signature does not verify")
	}
	sum := sha512.Sum384([]byte("message"))
	if _, err := key.Sign(nil, sum[:], crypto.SHA384); err == nil {
		t.Error("signed a SHA-384 digest")
	}
	if _, err := key.Sign(nil, digest[:5], crypto.SHA256); err == nil {
		t.Error("signed a short digest")
	}
	if _, _, err := chip.Quote(t.Context(), key, nil, pcrs()); err == nil {
		t.Error("quoted with an operational key")
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	if err := key.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
	if _, err := key.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, tpm.ErrAbsent) {
		t.Errorf("closed key: %v", err)
	}
}

// TestPointsAndSignaturesWithLeadingZerosRoundTrip: encoders elsewhere trimmed them.
func TestPointsAndSignaturesWithLeadingZerosRoundTrip(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	var point, signature bool
	for tries := 0; !point || !signature; tries++ {
		if tries == 5000 {
			t.Fatalf("none found: point %v, signature %v", point, signature)
		}
		key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
		public := key.Public().(*ecdsa.PublicKey)
		digest := sha256.Sum256([]byte{byte(tries), byte(tries >> 8)})
		sig := must(key.Sign(nil, digest[:], crypto.SHA256))(t)
		_, raw, err := chip.Certify(t.Context(), ak, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		ecc := must(must(tpm2.Unmarshal[tpm2.TPMTSignature](raw))(t).Signature.ECDSA())(t)
		signature = signature || short(ecc.SignatureR.Buffer) || short(ecc.SignatureS.Buffer)
		if encoded := must(public.Bytes())(t); encoded[1] == 0 || encoded[33] == 0 {
			point = true
			again := must(chip.LoadKey(t.Context(), key.PEM()))(t)
			spki := must(x509.MarshalPKIXPublicKey(again.Public()))(t)
			parsed := must(x509.ParsePKIXPublicKey(spki))(t)
			if !public.Equal(parsed.(*ecdsa.PublicKey)) || !bytes.Equal(again.Name(), key.Name()) {
				t.Fatal("another key came back")
			}
		}
		if !ecdsa.VerifyASN1(public, digest[:], sig) {
			t.Fatal("signature does not verify")
		}
		if err := key.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func short(b []byte) bool { return len(b) < 32 || b[0] == 0 }

// TestMoreKeysThanTheChipHolds: the package swaps them itself.
func TestMoreKeysThanTheChipHolds(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	digest := sha256.Sum256([]byte("message"))
	var keys []*tpm.Key
	for range 8 {
		keys = append(keys, must(chip.CreateKey(context.Background(), tpm.Operational))(t))
	}
	for range 2 {
		for i, key := range keys {
			sig := must(key.Sign(nil, digest[:], crypto.SHA256))(t)
			if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig) {
				t.Fatalf("key %d: signature does not verify", i)
			}
		}
	}
	noHandles(t, power, 3)
	if err := chip.Close(); err != nil {
		t.Fatal(err)
	}
	noHandles(t, power, 0)
}
