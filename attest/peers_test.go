package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestMain(m *testing.M) { tpmtest.Main(m) }

// TestQuoteOfToolsIsVerified: key and quote by tpm2-tools on a chip that measured
// the recorded boot; one over fewer PCRs or with another nonce is refused.
func TestQuoteOfToolsIsVerified(t *testing.T) {
	_, power := tpmtest.Start(t)
	l := newLab(t)
	log, err := ParseEventLog(l.log)
	if err != nil {
		t.Fatal(err)
	}
	var measured []tpmtest.Measurement
	for _, e := range log.Events {
		if e.Extends() {
			measured = append(measured, tpmtest.Measurement{PCR: e.PCR, Digest: e.Digest})
		}
	}
	for _, phase := range l.phases {
		measured = append(measured, tpmtest.Measurement{PCR: 11, Digest: sha256.Sum256([]byte(phase))})
	}
	if err := power.Boot(t.Context(), measured); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := tpmtest.Tool(t, power.Socket, dir, name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	run("tpm2_createprimary", "-C", "o", "-g", "sha256", "-G", "ecc:ecdsa-sha256:null", "-c", "ak.ctx",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign")
	run("tpm2_readpublic", "-c", "ak.ctx", "-f", "tss", "-o", "ak.pub")
	l.expect.AK = readFile(t, dir, "ak.pub")[2:] // without the size of a TPM2B
	claims, err := json.Marshal(l.claims)
	if err != nil {
		t.Fatal(err)
	}
	nonce := hex.EncodeToString(QualifyingData(labFleet, labDevice, l.expect.Nonce, claims))
	const all = "sha256:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14"
	quote := func(nonce, pcrs string) Evidence {
		run("tpm2_quote", "-c", "ak.ctx", "-l", pcrs, "-q", nonce, "-g", "sha256", "-m", "quote", "-s", "signature", "-f", "tss")
		defer os.Remove(filepath.Join(dir, "quote"))
		return Evidence{
			Version: 1, Quote: readFile(t, dir, "quote"), Signature: readFile(t, dir, "signature"),
			PCRs: l.boot(l.log), Claims: claims, EventLog: wholeLog(l.log),
		}
	}
	l.want(quote(nonce, all), Trusted, "")
	for name, ev := range map[string]Evidence{
		"fewer PCRs": quote(nonce, "sha256:0,7"), "another bank": quote(nonce, "sha384:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14"),
		"another nonce": quote(hex.EncodeToString(make([]byte, 32)), all),
	} {
		if r, err := l.judge(ev); err == nil {
			t.Errorf("%s: %s", name, r.Grade())
		}
	}
}
