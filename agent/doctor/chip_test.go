package doctor

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// dial opens a connection for raw commands.
func dial(t *testing.T, p *tpmtest.Power) transport.TPMCloser {
	t.Helper()
	conn, err := net.Dial("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return transport.FromReadWriteCloser(conn)
}

// with puts an emulated chip into a machine.
func (b *box) with(p *tpmtest.Power) *box {
	b.Settings.TPM = "unix:" + p.Socket
	b.Chip = func(ctx context.Context) (*Chip, error) {
		chip, err := tpm.Open(ctx, b.Settings.TPM)
		if err != nil {
			return nil, err
		}
		defer chip.Close()
		return ReadChip(ctx, chip)
	}
	return b.again()
}

// again forgets what the chip said.
func (b *box) again() *box { b.asked = false; return b }

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestReadingAChipSendsOnlyReads and leaves nothing behind: the whole diagnosis of a
// machine whose chip has certificates, a persistent key and the epoch counter.
func TestReadingAChipSendsOnlyReads(t *testing.T) {
	_, power := tpmtest.StartManufactured(t)
	raw := dial(t, power)
	persist(t, raw, tpm2.ECCSRKTemplate)
	makeCounter(t, power)
	faults := tpmtest.NewFaults(dial(t, power))
	chip := tpm.New(faults)
	defer chip.Close()
	b := newBox(t)
	b.Chip = func(ctx context.Context) (*Chip, error) { return ReadChip(ctx, chip) }
	before := state(t, power)
	Run(t.Context(), b.Machine)
	reads := []tpm2.TPMCC{tpm2.TPMCCGetCapability, tpm2.TPMCCReadClock, tpm2.TPMCCPCRRead, tpm2.TPMCCNVReadPublic, tpm2.TPMCCNVRead, tpm2.TPMCCReadPublic}
	sent := faults.Codes()
	for _, code := range sent {
		if !slices.Contains(reads, code) {
			t.Errorf("it sends %#x, which is no read", uint32(code))
		}
	}
	if len(sent) < 12 || len(sent) > 40 {
		t.Errorf("%d commands; they are to be few, and all of them recorded", len(sent))
	}
	if after := state(t, power); !reflect.DeepEqual(before, after) {
		t.Errorf("the chip was changed:\n%+v\n%+v", before, after)
	}
	t.Logf("%d commands", len(sent))
}

// state is all of a chip that a program can change and see.
func state(t *testing.T, p *tpmtest.Power) map[string]any {
	t.Helper()
	chip := must(tpm.Open(t.Context(), "unix:"+p.Socket))(t)
	defer chip.Close()
	info := must(chip.Info(t.Context()))(t)
	info.ClockMs = 0
	var all []int
	for pcr := range 24 {
		all = append(all, pcr)
	}
	return map[string]any{"info": info, "pcrs": must(chip.ReadPCRs(t.Context(), all))(t), "handles": len(must(p.Handles())(t))}
}

func makeCounter(t *testing.T, p *tpmtest.Power) {
	t.Helper()
	chip := must(tpm.Open(t.Context(), "unix:"+p.Socket))(t)
	defer chip.Close()
	key := must(ecdsaKey())(t)
	err := chip.Do(t.Context(), "make counter", func(c *tpm.Chip) error {
		_, err := counter.Define(c, key, counter.Index, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// persist makes a primary key and puts it where the storage key belongs.
func persist(t *testing.T, raw transport.TPM, template tpm2.TPMTPublic) {
	t.Helper()
	primary := must(tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(raw))(t)
	must(tpm2.EvictControl{
		Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name}, PersistentHandle: handleSRK,
	}.Execute(raw))(t)
	must(tpm2.FlushContext{FlushHandle: primary.ObjectHandle}.Execute(raw))(t)
}

func TestStorageKeyIsToldFromOtherKeys(t *testing.T) {
	signing := tpm2.ECCSRKTemplate
	signing.ObjectAttributes.NoDA = false
	for want, template := range map[string]*tpm2.TPMTPublic{"none": nil, "standard": &tpm2.ECCSRKTemplate, "other": &signing} {
		_, power := tpmtest.Start(t)
		if template != nil {
			persist(t, dial(t, power), *template)
		}
		if c := must(newBox(t).with(power).chip(t.Context()))(t); c.SRK != want {
			t.Errorf("storage key is %s, not %s", c.SRK, want)
		}
	}
}

func TestEndorsementCertificatesAreThoseOfTheMaker(t *testing.T) {
	_, power := tpmtest.Start(t)
	newBox(t).with(power).sees("ek.none")

	_, power = tpmtest.StartManufactured(t)
	c := must(newBox(t).with(power).chip(t.Context()))(t)
	var kinds []string
	for _, ek := range c.EK {
		kinds = append(kinds, ek.Kind)
		if ek.Problem != "" || !strings.Contains(ek.Issuer, "swtpm") || !ek.NotAfter.After(ek.NotBefore) {
			t.Errorf("%+v", ek)
		}
	}
	if slices.Sort(kinds); !slices.Equal(kinds, []string{"ecc-p384", "rsa2048"}) {
		t.Errorf("swtpm makes RSA 2048 and P-384, found %q", kinds)
	}
	if c.Revision < 138 {
		t.Errorf("specification revision %d", c.Revision)
	}
}

// TestAChipThatFailsIsToldBySayingHow.
func TestAChipThatFailsIsToldBySayingHow(t *testing.T) {
	_, power := tpmtest.Start(t)
	release := make(chan struct{})
	for name, fault := range map[string]tpmtest.Fault{
		"tpm.silent": tpmtest.Stall(release), "tpm.broken": tpmtest.ResponseCode(tpm2.TPMRCFailure),
	} {
		faults := tpmtest.NewFaults(dial(t, power))
		faults.On(tpm2.TPMCCGetCapability, 1, fault)
		chip := tpm.New(faults)
		b := newBox(t)
		b.Chip = func(ctx context.Context) (*Chip, error) {
			if name == "tpm.silent" { // the other answers at once, however busy this machine is
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
				defer close(release)
			}
			return ReadChip(ctx, chip)
		}
		b.sees(name, "off and on")
		_ = chip.Close()
	}
}

// TestTheFirstReadableCertificateDecides, as it does for the agent.
func TestTheFirstReadableCertificateDecides(t *testing.T) {
	b := newBox(t)
	good := b.c.EK[0]
	late, bad := good, EKCertificate{Kind: "ecc-p256", Problem: "asn1: no"}
	late.NotAfter = today(-1)
	b.c.EK = []EKCertificate{bad, good}
	b.fine("ek")
	b.c.EK = []EKCertificate{bad, late, good}
	b.sees("ek.expired")
}

// TestAnIndexThatAsksForAPasswordIsLeftAlone: a wrong one could lock the chip.
func TestAnIndexThatAsksForAPasswordIsLeftAlone(t *testing.T) {
	_, power := tpmtest.Start(t)
	raw := dial(t, power)
	public := tpm2.TPMSNVPublic{NVIndex: 0x01c00002, NameAlg: tpm2.TPMAlgSHA256, DataSize: 4, Attributes: tpm2.TPMANV{OwnerWrite: true, AuthRead: true}}
	must(tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, Auth: tpm2.TPM2BAuth{Buffer: []byte("secret")}, PublicInfo: tpm2.New2B(public)}.Execute(raw))(t)
	name := must(tpm2.NVReadPublic{NVIndex: public.NVIndex}.Execute(raw))(t).NVName
	must(tpm2.NVWrite{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: public.NVIndex, Name: name}, Data: tpm2.TPM2BMaxNVBuffer{Buffer: []byte("1234")},
	}.Execute(raw))(t)
	b := newBox(t).with(power)
	b.sees("ek.unreadable", "password that could be wrong")
	if c := must(b.chip(t.Context()))(t); c.LockoutCounter != 0 {
		t.Errorf("%d failures count", c.LockoutCounter)
	}
}

func TestAChipWithoutTheSHA256BankIsToldSo(t *testing.T) {
	setup, err := exec.LookPath("swtpm_setup")
	if err != nil {
		t.Skip("swtpm_setup is not installed: run \"make setup\"")
	}
	m := &tpmtest.Machine{Dir: folder(t)}
	state := filepath.Join(m.Dir, "tpm")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(setup, "--tpm2", "--tpmstate", state, "--pcr-banks", "sha1", "--overwrite")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := newBox(t).with(tpmtest.PowerOn(t, m))
	b.sees("pcrs.no-bank", "banks that are on: sha1")
	b.sees("event-log", "compare the event log")
	b.sees("ima", "compare the IMA list")
}

// TestFirmwareThatMeasuresNothingIsToldFromAResetChip by its event log alone.
func TestFirmwareThatMeasuresNothingIsToldFromAResetChip(t *testing.T) {
	_, power := tpmtest.Start(t)
	b := newBox(t).with(power)
	b.sees("pcrs.reset")
	b.sees("event-log.mismatch", "PCRs 0, 1, 2, 3, 4, 5, 6, 7")
	b.sees("seal.no-uki")
	b.remove(eventLogFile)
	b.sees("pcrs.blank")
	b.sees("event-log.none")
}

// TestARecordedBootIsTrueOnAChipThatWasExtendedSo.
func TestARecordedBootIsTrueOnAChipThatWasExtendedSo(t *testing.T) {
	_, power := tpmtest.Start(t)
	b := newBox(t).with(power)
	log := must(attest.ParseEventLog(b.load(bootData + "ovmf-secureboot.eventlog")))(t)
	for _, e := range log.Events {
		if e.Extends() {
			b.must(power.Extend(t.Context(), e.PCR, e.Digest))
		}
	}
	b.fine("pcrs", "event-log", "seal")
	b.must(power.Extend(t.Context(), 4, [32]byte{1}))
	b.again().sees("event-log.mismatch", "PCRs 4")
}

func TestPasswordsAreSeenAndNotAskedFor(t *testing.T) {
	_, power := tpmtest.Start(t)
	b, raw := newBox(t).with(power), dial(t, power)
	b.sees("tpm-passwords.open", "no owner password, no lockout password, TPM2_Clear is allowed")
	// TPM2_ClearControl by the empty lockout password (Part 3, 24.7).
	response := must(raw.Send([]byte("\x80\x02\x00\x00\x00\x1c\x00\x00\x01\x27\x40\x00\x00\x0a\x00\x00\x00\x09\x40\x00\x00\x09\x00\x00\x00\x00\x00\x01")))(t)
	if code := binary.BigEndian.Uint32(response[6:]); code != 0 {
		t.Fatalf("TPM2_ClearControl: %#x", code)
	}
	for _, hierarchy := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHEndorsement, tpm2.TPMRHLockout} {
		must(tpm2.HierarchyChangeAuth{AuthHandle: hierarchy, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}.Execute(raw))(t)
	}
	b.again().fine("tpm-passwords") // both units are given them
	b.remove("/etc/systemd/system/gatewarden.service.d")
	b.sees("tpm-passwords.owner-withheld")
	b.sees("tpm-passwords.endorsement-withheld")
}

// TestFullNVMemoryIsSaidUnlessTheCounterIsThere.
func TestFullNVMemoryIsSaidUnlessTheCounterIsThere(t *testing.T) {
	_, power := tpmtest.Start(t)
	fill(t, dial(t, power))
	newBox(t).with(power).sees("nv.full", "room for no counter")

	_, power = tpmtest.Start(t)
	makeCounter(t, power)
	fill(t, dial(t, power))
	newBox(t).with(power).fine("nv")
}

// fill defines indexes, smaller and smaller, until none fits, and then counters, for
// which the chip keeps room of its own.
func fill(t *testing.T, raw transport.TPM) {
	t.Helper()
	index := tpm2.TPMHandle(0x01500000)
	define := func(kind tpm2.TPMNT, size uint16) error {
		index++
		_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: size,
			Attributes: tpm2.TPMANV{OwnerRead: true, OwnerWrite: true, NoDA: true, NT: kind},
		})}.Execute(raw)
		return err
	}
	for size := uint16(2048); size >= 8; size /= 2 {
		for define(tpm2.TPMNTOrdinary, size) == nil {
		}
	}
	for define(tpm2.TPMNTCounter, 8) == nil {
	}
}
