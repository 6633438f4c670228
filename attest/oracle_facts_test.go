package attest

import (
	"bytes"
	"crypto"
	"encoding/hex"
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

// compareFacts lists what differs.
func compareFacts(ours *Facts, theirs *pb.FirmwareLogState) (differ []string) {
	check := func(what string, ours, theirs any) {
		if a, b := fmt.Sprint(ours), fmt.Sprint(theirs); a != b {
			differ = append(differ, fmt.Sprintf("%s: %.300s, go-eventlog has %.300s", what, a, b))
		}
	}
	if sb := theirs.GetSecureBoot(); sb != nil {
		check("Secure Boot", ours.SecureBoot == "on", sb.GetEnabled())
		for name, db := range map[string]*pb.Database{"PK": sb.GetPk(), "KEK": sb.GetKek(), "db": sb.GetDb(), "dbx": sb.GetDbx()} {
			var v Variable
			if i := slices.IndexFunc(ours.Keys, func(v Variable) bool { return v.Name == name }); i >= 0 {
				v = ours.Keys[i]
			}
			check("certificates of "+name, len(v.Certificates), len(db.GetCerts()))
			check("hashes of "+name, v.Hashes, len(db.GetHashes()))
		}
		certificates := 0
		for _, v := range ours.Authorities {
			certificates += len(v.Certificates)
		}
		check("authorities", certificates, len(sb.GetAuthority().GetCerts()))
	}
	if efi := theirs.GetEfi(); efi != nil {
		check("boot applications", digestsOf(ours.Applications), theirDigests(efi.GetApps()))
		check("option ROMs", digestsOf(ours.OptionROMs), theirDigests(efi.GetBootServicesDrivers()))
	}
	if grub := theirs.GetGrub(); grub != nil {
		check("files", digestsOf(ours.Files), theirDigests(grub.GetFiles()))
		check("commands", commandsOf(ours), theirCommands(grub.GetCommands()))
	}
	return differ
}

func digestsOf[T Application | Loaded](list []T) (out []string) {
	for _, one := range list {
		switch v := any(one).(type) {
		case Application:
			out = append(out, v.Digest.String())
		case Loaded:
			out = append(out, v.Digest.String())
		}
	}
	return out
}

func theirDigests[T interface{ GetDigest() []byte }](list []T) (out []string) {
	for _, one := range list {
		out = append(out, hex.EncodeToString(one.GetDigest()))
	}
	return out
}

// commandsOf are those of GRUB and of the kernel, sorted.
func commandsOf(f *Facts) []string {
	out := slices.Clone(f.GRUB)
	for _, line := range f.CommandLines {
		out = append(out, line.Text)
	}
	slices.Sort(out)
	return out
}

// theirCommands are without prefix and terminating zero, which GRUB logs and does not
// extend: go-eventlog keeps both.
func theirCommands(list []string) (out []string) {
	for _, text := range list {
		for prefix := range grubPrefixes() {
			if rest, ok := strings.CutPrefix(text, prefix); ok {
				out = append(out, strings.TrimRight(rest, "\x00"))
				break
			}
		}
	}
	slices.Sort(out)
	return out
}
