package tpm_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// times is how often a long test repeats: a tenth, or all with GATEWARDEN_LONG=1.
func times(all int) int {
	if os.Getenv("GATEWARDEN_LONG") != "" {
		return all
	}
	return all / 10
}

// TestUncleanStopsNeverLockTheChip: power cuts in the middle of work, with the keys
// in use; afterwards they load and nothing was counted.
func TestUncleanStopsNeverLockTheChip(t *testing.T) {
	t.Parallel()
	machine, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t).PEM()
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t).PEM()
	_ = power.Kill()
	for i := range times(100) {
		power := tpmtest.PowerOn(t, machine)
		chip, faults := connect(t, power)
		loaded := must(chip.LoadKey(t.Context(), ak))(t)
		must(chip.LoadKey(t.Context(), key))(t)
		info := must(chip.Info(t.Context()))(t)
		if info.LockoutCounter != 0 {
			t.Fatalf("after %d stops the lockout counter is %d", i, info.LockoutCounter)
		}
		faults.At(1+i%7, tpmtest.PowerCut(power))
		work(t.Context(), t, chip, loaded)
		_ = power.Kill()
	}
}

// work goes on until the chip is gone.
func work(ctx context.Context, t *testing.T, chip *tpm.TPM, ak *tpm.Key) {
	t.Helper()
	for range 50 {
		ek, err := chip.EK(ctx, "ecc-p256")
		if err != nil {
			return
		}
		blob, secret := makeCredential(t, ek, ak.Name(), []byte("ticket"))
		if _, err := chip.Activate(ctx, ek, ak, blob, secret); err != nil {
			return
		}
		if _, _, err := chip.Quote(ctx, ak, nil, pcrs()); err != nil {
			return
		}
	}
	t.Fatal("the power was never cut")
}

// TestAttestationsLeaveNoHandleAndNoMemory, and send exactly one TPM2_Quote each.
func TestAttestationsLeaveNoHandleAndNoMemory(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, faults := connect(t, power)
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	before := len(must(power.Handles())(t))
	var heap uint64
	for i := range times(10_000) {
		if i == times(10_000)/10 {
			heap = inUse()
		}
		faults.Reset()
		nonce := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		quote, sig, err := chip.Quote(t.Context(), ak, nonce[:], pcrs())
		if err != nil {
			t.Fatal(err)
		}
		verify(t, ak, quote, sig)
		must(chip.ReadPCRs(t.Context(), pcrs()))(t)
		if codes := fmt.Sprint(faults.Codes()); codes != fmt.Sprint([]tpm2.TPMCC{tpm2.TPMCCQuote, tpm2.TPMCCPCRRead, tpm2.TPMCCPCRRead}) {
			t.Fatalf("commands %s", codes)
		}
	}
	if after := len(must(power.Handles())(t)); after != before {
		t.Fatalf("%d handles before, %d after", before, after)
	}
	if grown := int64(inUse()) - int64(heap); grown > 256<<10 {
		t.Errorf("%d bytes more than after a tenth of them", grown)
	}
	_ = chip.Close()
	noHandles(t, power, 0)
}

// inUse is the memory that is still needed.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// TestQuoteIsOverThePCRsAsTheyAre: extending changes what is read and what is signed.
func TestQuoteIsOverThePCRsAsTheyAre(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	event := sha256.Sum256([]byte("event"))
	before := must(chip.ReadPCRs(t.Context(), pcrs()))(t)
	if err := power.Extend(t.Context(), 4, event); err != nil {
		t.Fatal(err)
	}
	if err := chip.Extend(t.Context(), 11, event); err != nil {
		t.Fatal(err)
	}
	after := must(chip.ReadPCRs(t.Context(), pcrs()))(t)
	all := sha256.New()
	for pcr := range 15 {
		old := before[pcr]
		want := old
		if pcr == 4 || pcr == 11 {
			want = sha256.Sum256(append(old[:], event[:]...))
		}
		if after[pcr] != want {
			t.Errorf("PCR %d is %x", pcr, after[pcr])
		}
		all.Write(want[:])
	}
	ak := must(chip.CreateKey(t.Context(), tpm.AK))(t)
	quote, _, err := chip.Quote(t.Context(), ak, []byte("nonce"), pcrs())
	if err != nil {
		t.Fatal(err)
	}
	attest := must(tpm2.Unmarshal[tpm2.TPMSAttest](quote))(t)
	if string(attest.ExtraData.Buffer) != "nonce" || attest.Magic != tpm2.TPMGeneratedValue {
		t.Fatalf("quote says %+v", attest)
	}
	content := must(attest.Attested.Quote())(t)
	if got := content.PCRDigest.Buffer; string(got) != string(all.Sum(nil)) {
		t.Fatalf("quoted %x", got)
	}
}

func TestInfoDescribesTheChip(t *testing.T) {
	machine, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	info := must(chip.Info(t.Context()))(t)
	if info.Manufacturer != "IBM" || !info.SHA256Bank || info.MaxAuthFail == 0 || info.FirmwareVersion == 0 {
		t.Fatalf("%+v", info)
	}
	if len(info.Banks) == 0 || info.NVIndexMax == 0 || info.NVCountersAvail == 0 || info.PersistentAvail == 0 ||
		info.LockoutInterval == 0 || info.LockoutRecovery == 0 || !info.ResourceManager || info.LockedOut {
		t.Fatalf("%+v", info)
	}
	raw := dial(t, power)
	persist(t, raw, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate, 0x81000001)
	for _, hierarchy := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHEndorsement, tpm2.TPMRHLockout} {
		setAuth(t, raw, hierarchy, "secret")
	}
	taken := must(chip.Info(t.Context()))(t)
	if !taken.OwnerAuth || !taken.EndorsementAuth || !taken.LockoutAuth || info.OwnerAuth || info.EndorsementAuth || info.LockoutAuth {
		t.Fatalf("passwords: %+v, then %+v", info, taken)
	}
	if fmt.Sprintf("%#x", taken.Persistent) != "[0x81000001]" || len(info.Persistent) != 0 {
		t.Fatalf("persistent: %x, then %x", info.Persistent, taken.Persistent)
	}
	_ = power.Off()
	chip, _ = connect(t, tpmtest.PowerOn(t, machine))
	if again := must(chip.Info(t.Context()))(t); again.ResetCount != info.ResetCount+1 {
		t.Fatalf("reset count %d, then %d", info.ResetCount, again.ResetCount)
	}
}

// TestRawDeviceIsKnownByItsPath.
func TestRawDeviceIsKnownByItsPath(t *testing.T) {
	for path, want := range map[string]bool{
		"/dev/tpmrm0": true, "/dev/tpmrm10": true, "unix:/run/tpm.sock": true, "swtpm:/run/tpm.sock": false, "/dev/tpm0": false, "/dev/tpm12": false,
	} {
		if got := tpm.Shared(path); got != want {
			t.Errorf("%s: shared is %v", path, got)
		}
	}
}

// TestTLSHandshakeTakesOneSignatureAndResumptionNone.
func TestTLSHandshakeTakesOneSignatureAndResumptionNone(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, faults := connect(t, power)
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	link := newLink(t, key)
	faults.Reset()
	for i, want := range []int{1, 1, 1} {
		if resumed := link.connect(t); resumed != (i > 0) {
			t.Fatalf("connection %d: resumed is %v", i, resumed)
		}
		if n := len(faults.Codes()); n != want {
			t.Fatalf("%d TPM commands after connection %d: %v", n, i, faults.Codes())
		}
	}
}

func answer(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = conn.Write([]byte("x"))
			_, _ = conn.Read(make([]byte, 1)) // until the other side closes
		}()
	}
}

func serverCertificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := certificate(t, key.Public(), key)
	pool := x509.NewCertPool()
	pool.AddCert(must(x509.ParseCertificate(der))(t))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func selfSigned(t testing.TB, key *tpm.Key) tls.Certificate {
	t.Helper()
	return tls.Certificate{
		Certificate: [][]byte{certificate(t, key.Public(), key)}, PrivateKey: key,
		SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}
}

func certificate(t testing.TB, public, signer any) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, DNSNames: []string{"fleet"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	return must(x509.CreateCertificate(rand.Reader, template, template, public, signer))(t)
}
