package attest

import (
	"crypto/sha256"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// chip is an emulated TPM that keeps its state over power cycles.
type chip struct {
	t   testing.TB
	dir string
	transport.TPM
}

// power starts the chip; off stops it with no orderly shutdown.
func (c *chip) power() (off func()) {
	c.t.Helper()
	socket := filepath.Join(c.dir, "s")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+c.dir,
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	var conn net.Conn
	deadline := time.Now().Add(2 * time.Minute)
	for {
		var err error
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("connect to swtpm: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	c.TPM = transport.FromReadWriter(conn)
	return func() {
		conn.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.Remove(socket)
	}
}

func newChip(t testing.TB) *chip {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed (package swtpm): no quote of a real TPM stack was verified")
	}
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &chip{t: t, dir: dir}
}

// ak makes the attestation key: the same one after each power cycle, since it is
// a primary of the owner hierarchy here.
func (c *chip) ak() *tpm2.CreatePrimaryResponse {
	c.t.Helper()
	template := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
	}
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return key
}

func (c *chip) extend(pcr int, digest Digest) {
	c.t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
}

// boot extends what the log and the boot phases say.
func (c *chip) boot(l *lab) {
	log, err := ParseEventLog(l.log)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range log.Events {
		if e.Extends() {
			c.extend(e.PCR, e.Digest)
		}
	}
	for _, phase := range l.phases {
		c.extend(11, sha256.Sum256([]byte(phase)))
	}
}

func (c *chip) evidence(l *lab, key *tpm2.CreatePrimaryResponse) Evidence {
	c.t.Helper()
	claims, err := json.Marshal(l.claims)
	if err != nil {
		c.t.Fatal(err)
	}
	quote, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: QualifyingData(labFleet, labDevice, l.expect.Nonce, claims)},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0xff, 0x7f, 0}},
		}},
	}.Execute(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return Evidence{
		Version: 1, Quote: quote.Quoted.Bytes(), Signature: tpm2.Marshal(quote.Signature),
		PCRs: l.boot(l.log), Claims: claims, EventLog: wholeLog(l.log),
	}
}

// A TPM's own quote of the recorded boot is trusted; its counters, obfuscated for
// a key of the owner hierarchy, count power cycles all the same; a chip whose
// state was copied and put back is found out.
func TestQuoteOfARealTPMStackOverPowerCycles(t *testing.T) {
	c, l := newChip(t), newLab(t)
	var saved map[string][]byte
	for cycle := range 3 {
		if cycle == 1 {
			saved = c.save()
		}
		off := c.power()
		c.boot(l)
		key := c.ak()
		public, err := key.OutPublic.Contents()
		if err != nil {
			t.Fatal(err)
		}
		l.expect.AK = tpm2.Marshal(*public)
		ev := c.evidence(l, key)
		off()
		r := l.want(ev, Trusted, "trusted: release gw 1.0.0")
		if text := strings.Join(r.Explanation(), "\n"); cycle > 0 && !strings.Contains(text, "TPM clock: 1 resets since the last quote") {
			t.Errorf("cycle %d: %s", cycle, text)
		}
		l.expect.Last = r.Remember(l.expect.Last)
	}
	c.restore(saved)
	off := c.power()
	defer off()
	c.boot(l)
	l.want(c.evidence(l, c.ak()), Untrusted, "the count of TPM resets went back by 1: the chip's state is an older copy")
}

func (c *chip) save() map[string][]byte {
	files := make(map[string][]byte)
	paths, err := filepath.Glob(filepath.Join(c.dir, "*.permall"))
	if err != nil || len(paths) == 0 {
		c.t.Fatalf("no state of the chip: %v", err)
	}
	for _, path := range paths {
		files[path] = readFile(c.t, path)
	}
	return files
}

func (c *chip) restore(files map[string][]byte) {
	for path, data := range files {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
}
