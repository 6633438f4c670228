package attest

import (
	"bytes"
	"crypto"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-eventlog/extract"
	pb "github.com/google/go-eventlog/proto/state"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
)

// theirState is what go-eventlog makes of a log, the PCRs being those that we replay.
// It may be partial: the error says what go-eventlog refused.
func theirState(t *testing.T, raw []byte, log *EventLog) (*pb.FirmwareLogState, error) {
	t.Helper()
	replay, err := log.Replay()
	if err != nil {
		t.Fatal(err)
	}
	var registers []register.MR
	for pcr, value := range replay {
		registers = append(registers, register.PCR{Index: pcr, Digest: bytes.Clone(value[:]), DigestAlg: crypto.SHA256})
	}
	events, err := tcg.ParseAndReplay(raw, registers, tcg.ParseOpts{AllowPadding: true})
	if err != nil {
		return nil, err
	}
	return extract.FirmwareLogState(events, crypto.SHA256, extract.TPMRegisterConfig,
		extract.Opts{Loader: extract.GRUB, AllowEmptySBVar: true, AllowEFIAppBeforeCallingEvent: true})
}

func TestFactsAreThoseThatGoEventlogReads(t *testing.T) {
	dir := corpus(t)
	compared := 0
	for _, entry := range manifest(t, dir) {
		if entry.Expect == nil || entry.Expect.Err != nil || entry.Expect.PCRs["sha256"] == nil {
			continue
		}
		name := filepath.Base(entry.Path)
		raw := corpusLog(t, dir, entry.Path)
		log, err := ParseEventLog(raw)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := theirState(t, raw, log)
		if err != nil && !slices.ContainsFunc(refusedByGoEventlog(), func(reason string) bool { return strings.Contains(err.Error(), reason) }) {
			t.Errorf("%s: go-eventlog refuses it for a reason that is not explained: %.200v", name, err)
		}
		compared++
		facts := extractFacts(log, func(int) bool { return true })
		for _, difference := range compareFacts(&facts, theirs) {
			t.Errorf("%s: %s", name, difference)
		}
	}
	if compared < 20 {
		t.Errorf("only %d logs compared", compared)
	}
}

// refusedByGoEventlog are its reasons to read no or fewer facts, each explained in
// docs/attestation.md.
func refusedByGoEventlog() []string {
	return []string{
		"no GRUB measurements found",
		"invalid prefix seen for PCR8 event",
		"secure boot was enabled but no key was used",
		"invalid Non-Host info event for PCR0",
	}
}

func compareFacts(ours *Facts, theirs *pb.FirmwareLogState) (differ []string) {
	check := func(what string, ours, theirs any) {
		if a, b := fmt.Sprint(ours), fmt.Sprint(theirs); a != b {
			differ = append(differ, fmt.Sprintf("%s: %.300s, go-eventlog has %.300s", what, a, b))
		}
	}
	if sb := theirs.GetSecureBoot(); sb != nil {
		check("Secure Boot", ours.SecureBoot == "on", sb.GetEnabled())
		for name, db := range map[string]*pb.Database{"PK": sb.GetPk(), "KEK": sb.GetKek(), "db": sb.GetDb(), "dbx": sb.GetDbx()} {
			certificates, hashes := 0, 0
			for _, v := range ours.Keys {
				if v.Name == name {
					certificates, hashes = len(v.Certificates), v.Hashes
				}
			}
			check("certificates of "+name, certificates, len(db.GetCerts()))
			check("hashes of "+name, hashes, len(db.GetHashes()))
		}
		certificates := 0
		for _, v := range ours.Authorities {
			certificates += len(v.Certificates)
		}
		check("authorities", certificates, len(sb.GetAuthority().GetCerts()))
	}
	if efi := theirs.GetEfi(); efi != nil {
		var a, b []string
		for _, app := range ours.Applications {
			a = append(a, app.Digest.String())
		}
		for _, app := range efi.GetApps() {
			b = append(b, fmt.Sprintf("%x", app.GetDigest()))
		}
		check("boot applications", a, b)
		a, b = nil, nil
		for _, app := range ours.OptionROMs {
			a = append(a, app.Digest.String())
		}
		for _, app := range efi.GetBootServicesDrivers() {
			b = append(b, fmt.Sprintf("%x", app.GetDigest()))
		}
		check("option ROMs", a, b)
	}
	if theirs.GetGrub() == nil {
		return differ
	}
	var a, b []string
	for _, f := range ours.Files {
		a = append(a, f.Digest.String())
	}
	for _, f := range theirs.GetGrub().GetFiles() {
		b = append(b, fmt.Sprintf("%x", f.GetDigest()))
	}
	check("files", a, b)
	a, b = slices.Clone(ours.GRUB), nil
	for _, line := range ours.CommandLines {
		a = append(a, line.Text)
	}
	for _, text := range theirs.GetGrub().GetCommands() {
		for prefix := range grubPrefixes() {
			if rest, ok := strings.CutPrefix(text, prefix); ok {
				b = append(b, strings.TrimRight(rest, "\x00"))
				break
			}
		}
	}
	slices.Sort(a)
	slices.Sort(b)
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			check("commands", fmt.Sprintf("%d: %q", len(a), a[min(i, len(a)):]), fmt.Sprintf("%d: %q", len(b), b[min(i, len(b)):]))
			break
		}
	}
	return differ
}
