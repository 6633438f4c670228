package attest

import (
	"bytes"
	"crypto"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// corpus returns the folder of recorded logs, or skips.
func corpus(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("GATEWARDEN_CORPUS")
	if dir == "" {
		t.Skip("GATEWARDEN_CORPUS is not set: the corpus of recorded boot logs was not run")
	}
	return dir
}

func readFile(t testing.TB, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

type manifestEntry struct {
	Path   string `json:"path"`
	Expect *struct {
		Err      *string                      `json:"err"`
		Events   int                          `json:"events"`
		Format   string                       `json:"format"`
		PCRs     map[string]map[string]string `json:"pcrs"`
		Locality int                          `json:"startup_locality"`
	} `json:"expect"`
}

func manifest(t testing.TB, dir string) []manifestEntry {
	t.Helper()
	var entries []manifestEntry
	if err := json.Unmarshal(readFile(t, dir, "manifest.json"), &entries); err != nil {
		t.Fatal(err)
	}
	return entries
}

func corpusLog(t testing.TB, dir, path string) []byte {
	t.Helper()
	raw := readFile(t, dir, path)
	if strings.HasSuffix(path, ".b64") {
		decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		return decoded
	}
	return raw
}

// cryptoAgileLogs are the logs of the corpus that are well formed and of that format, by
// path.
func cryptoAgileLogs(t *testing.T) map[string]*EventLog {
	t.Helper()
	dir, logs := corpus(t), map[string]*EventLog{}
	for _, entry := range manifest(t, dir) {
		if entry.Expect == nil || entry.Expect.Err != nil || entry.Expect.Format != FormatCryptoAgile {
			continue
		}
		log, err := ParseEventLog(corpusLog(t, dir, entry.Path))
		if err != nil {
			t.Fatal(err)
		}
		logs[entry.Path] = log
	}
	return logs
}

func TestReplayEqualsRecordedPCRsForEveryLogOfTheCorpus(t *testing.T) {
	dir := corpus(t)
	logs := 0
	for _, entry := range manifest(t, dir) {
		if entry.Expect == nil {
			continue
		}
		logs++
		t.Run(filepath.Base(entry.Path), func(t *testing.T) {
			log, err := ParseEventLog(corpusLog(t, dir, entry.Path))
			if entry.Expect.Err != nil {
				if err == nil || !strings.Contains(err.Error(), "at byte") {
					t.Fatalf("got %v, want a refusal with offset and reason", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			count := len(log.Events)
			if last := log.Events[count-1]; last.PCR < 0 {
				count-- // Windows ends its logs with a note for PCR 0xffffffff, which the manifest leaves out
			}
			if log.Format != entry.Expect.Format || count != entry.Expect.Events || log.Locality != entry.Expect.Locality {
				t.Errorf("%s, %d events, locality %d; want %+v", log.Format, len(log.Events), log.Locality, entry.Expect)
			}
			for bank, want := range entry.Expect.PCRs {
				compareBank(t, log, bank, want)
			}
		})
	}
	if logs < 30 {
		t.Errorf("only %d logs in the manifest", logs)
	}
}

// What the corpus has beside event logs with their expected outcome, by how the path
// ends. Logs among these are run by the test that is named; the rest are no logs.
func otherFiles() map[string]string {
	return map[string]string{
		"windows_gcp_shielded_vm.json":      "TestWindowsShieldedVMQuoteIsRightAndRefusedForItsSHA1",
		"binary_bios_measurements-empty":    "TestFilesThatAreNoLogsAreRefused",
		"ima-log-sha1":                      "TestIMAListOfTheCorpusIsReadInEveryHash",
		"ima-log-sha256":                    "TestIMAListOfTheCorpusIsReadInEveryHash",
		"ima-log-sha384":                    "TestIMAListOfTheCorpusIsReadInEveryHash",
		"ima-log-sha512":                    "TestIMAListOfTheCorpusIsReadInEveryHash",
		"ima-log-sm3_256":                   "TestIMAListOfTheCorpusIsReadInEveryHash",
		"ima-log-unknown":                   "TestIMAListOfTheCorpusIsReadInEveryHash",
		"lab/ovmf-uki.eventlog":             "TestLabOfTheCorpusIsWhatOurTestsRead",
		"lab/ovmf-uki.pcrs.txt":             "TestLabOfTheCorpusIsWhatOurTestsRead",
		"lab/ima-tcb.binary":                "TestLabOfTheCorpusIsWhatOurTestsRead",
		"lab/ima-tcb.pcr10.hex":             "TestLabOfTheCorpusIsWhatOurTestsRead",
		"ek-template-default.bin":           "TestFilesThatAreNoLogsAreRefused",
		"get-capability-tpm-prop-fixed.bin": "TestFilesThatAreNoLogsAreRefused",
		"fake_active_0":                     "", "fake_active_1": "", "fake_caps_tpm12": "", "fake_tpm": "",
		".yaml": "", ".warn": "", ".json": "", ".crt": "", ".sig": "", ".pem": "", ".pub": "", ".txt": "",
		"/allowlist-sha1": "", "/allowlist-sha256": "", "/allowlist-sha384": "", "/allowlist-sha512": "", "/allowlist-sm3_256": "", "/allowlist-unknown": "",
		"/policy-sha1": "", "/policy-sha256": "", "/policy-sha384": "", "/policy-sha512": "", "/policy-sm3_256": "", "/policy-unknown": "",
	}
}

func TestEveryLogOfTheCorpusIsRun(t *testing.T) {
	dir := corpus(t)
	run := make(map[string]bool)
	for _, entry := range manifest(t, dir) {
		if entry.Expect != nil {
			run[entry.Path] = true // by TestReplayEqualsRecordedPCRsForEveryLogOfTheCorpus
		}
	}
	for _, folder := range []string{"eventlogs", "keylime", "lab"} {
		err := filepath.WalkDir(filepath.Join(dir, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil || run[name] {
				return err
			}
			for suffix := range otherFiles() {
				if strings.HasSuffix(name, suffix) {
					return nil
				}
			}
			t.Errorf("no test runs %s", name)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFilesThatAreNoLogsAreRefused(t *testing.T) {
	dir := corpus(t)
	for _, path := range []string{
		"keylime/keylime-keylime/test/data/create-mb-policy/binary_bios_measurements-empty",
		"eventlogs/tpm2-software-tpm2-tools/test/integration/fixtures/ek-template-default.bin",
		"eventlogs/tpm2-software-tpm2-tools/test/integration/fixtures/get-capability-tpm-prop-fixed.bin",
	} {
		if log, err := ParseEventLog(readFile(t, dir, path)); err == nil {
			t.Errorf("%s is a log of %d events", path, len(log.Events))
		}
	}
}

func TestLabOfTheCorpusIsWhatOurTestsRead(t *testing.T) {
	dir := corpus(t)
	for _, name := range []string{"ovmf-uki.eventlog", "ovmf-uki.pcrs.txt", "ima-tcb.binary", "ima-tcb.pcr10.hex"} {
		if !bytes.Equal(readFile(t, dir, "lab", name), readFile(t, bootData, name)) {
			t.Errorf("%s is not that of testdata/boot", name)
		}
	}
}

func algorithmNamed(t testing.TB, name string) Algorithm {
	for _, alg := range []Algorithm{AlgSHA1, AlgSHA256, AlgSHA384, AlgSHA512} {
		if alg.String() == name {
			return alg
		}
	}
	t.Fatalf("no bank %q", name)
	return 0
}

func compareBank(t *testing.T, log *EventLog, bank string, want map[string]string) {
	t.Helper()
	got, err := log.ReplayBank(algorithmNamed(t, bank))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d PCRs, want %d", bank, len(got), len(want))
	}
	for pcr, value := range got {
		if hex.EncodeToString(value) != want[fmt.Sprint(pcr)] {
			t.Errorf("%s PCR %d is %x, want %s", bank, pcr, value, want[fmt.Sprint(pcr)])
		}
	}
	digests, err := log.Replay()
	if bank != "sha256" {
		if log.Format == FormatLegacy && !errors.Is(err, ErrNoBank) {
			t.Errorf("legacy log: got %v, want ErrNoBank", err)
		}
		return
	}
	if err != nil || len(digests) != len(got) {
		t.Fatalf("Replay: %d PCRs, %v", len(digests), err)
	}
	for pcr, value := range got {
		if digest := digests[pcr]; !bytes.Equal(digest[:], value) {
			t.Errorf("PCR %d: Replay %s, ReplayBank %x", pcr, digest, value)
		}
	}
}

func TestReplayEqualsPCRsReadFromTheTPM(t *testing.T) {
	dir := corpus(t)
	var recorded map[string]struct {
		File string                       `json:"corpus_file"`
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(readFile(t, dir, "tpm-pcrs.json"), &recorded); err != nil {
		t.Fatal(err)
	}
	if len(recorded) < 5 {
		t.Fatalf("only %d recordings", len(recorded))
	}
	for name, r := range recorded {
		t.Run(name, func(t *testing.T) {
			log, err := ParseEventLog(readFile(t, dir, r.File))
			if err != nil {
				t.Fatal(err)
			}
			for bank, want := range r.PCRs {
				got, err := log.ReplayBank(algorithmNamed(t, bank))
				if err != nil {
					t.Fatal(err)
				}
				for pcr, value := range got {
					if w := want[fmt.Sprint(pcr)]; w != "" && w != hex.EncodeToString(value) {
						t.Errorf("%s PCR %d is %x, the TPM had %s", bank, pcr, value, w)
					}
				}
			}
		})
	}
}

// The Windows attestation was made with SHA-1 throughout: its signature and PCRs
// are right, and Verify's rules refuse it nevertheless.
func TestWindowsShieldedVMQuoteIsRightAndRefusedForItsSHA1(t *testing.T) {
	var dump struct {
		AK    struct{ Public []byte }
		Quote struct{ Quote, Signature []byte }
		Log   struct {
			PCRs []struct {
				Index, DigestAlg int
				Digest           []byte
			}
			Raw []byte
		}
	}
	data := readFile(t, corpus(t), "eventlogs/google-go-attestation/attest/testdata/windows_gcp_shielded_vm.json")
	if err := json.Unmarshal(data, &dump); err != nil {
		t.Fatal(err)
	}
	ak, err := parseAK(dump.AK.Public)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(dump.Quote.Quote)
	if err := ak.verify(sum[:], dump.Quote.Signature, crypto.SHA1); err != nil {
		t.Fatal(err)
	}
	q, err := parseQuote(dump.Quote.Quote)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := make([][]byte, 24)
	for _, p := range dump.Log.PCRs {
		if p.DigestAlg == int(crypto.SHA1) {
			pcrs[p.Index] = p.Digest
		}
	}
	if sum := sha1.Sum(bytes.Join(pcrs, nil)); !bytes.Equal(sum[:], q.pcrDigest) {
		t.Error("PCR values are not those of the quote")
	}
	log, err := ParseEventLog(dump.Log.Raw)
	if err != nil {
		t.Fatal(err)
	}
	replay, err := log.ReplayBank(AlgSHA1)
	if err != nil {
		t.Fatal(err)
	}
	for pcr, value := range replay {
		if !bytes.Equal(value, pcrs[pcr]) {
			t.Errorf("PCR %d does not replay", pcr)
		}
	}
	if q.coversSelection() {
		t.Error("a quote over the SHA-1 bank passes for one over SHA-256")
	}
	_, err = openQuote(ak, dump.Quote.Quote, dump.Quote.Signature)
	wantRefusal(t, err, "key")
}

func wantRefusal(t *testing.T, err error, rule string) {
	t.Helper()
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Rule != rule {
		t.Errorf("got %v, want a refusal by %q", err, rule)
	}
}
