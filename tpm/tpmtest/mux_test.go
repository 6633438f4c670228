package tpmtest_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// client is one connection with raw commands.
type client struct {
	net.Conn
	transport.TPM
}

func connect(t *testing.T, p *tpmtest.Power) client {
	t.Helper()
	conn, err := net.Dial("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return client{conn, transport.FromReadWriter(conn)}
}

func (c client) primary(t *testing.T) *tpm2.CreatePrimaryResponse {
	t.Helper()
	rsp, err := c.tryPrimary()
	if err != nil {
		t.Fatal(err)
	}
	return rsp
}

func (c client) tryPrimary() (*tpm2.CreatePrimaryResponse, error) {
	return tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
}

func (c client) handles(t *testing.T, kind uint32) []tpm2.TPMHandle {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: kind, PropertyCount: 64}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return list.Handle
}

// swept waits until the chip holds nothing.
func swept(t *testing.T, p *tpmtest.Power) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		handles, err := p.Handles()
		if err != nil {
			t.Fatal(err)
		}
		if len(handles) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left: %x", handles)
		}
	}
}

// TestEachClientHasAllThreeSlots, with handles of its own that others can't use.
func TestEachClientHasAllThreeSlots(t *testing.T) {
	_, power := tpmtest.Start(t)
	a, b := connect(t, power), connect(t, power)
	var ofA, ofB []tpm2.TPMHandle
	for range 3 { // in turns, so that each command swaps
		ofA = append(ofA, a.primary(t).ObjectHandle)
		ofB = append(ofB, b.primary(t).ObjectHandle)
	}
	if fmt.Sprint(ofA) != fmt.Sprint(ofB) {
		t.Errorf("handles %x and %x: not virtual", ofA, ofB)
	}
	if _, err := a.tryPrimary(); !errors.Is(err, tpm2.TPMRCObjectMemory) {
		t.Errorf("fourth object: %v", err)
	}
	if n := len(a.handles(t, 0x80000000)); n != 3 {
		t.Errorf("a sees %d objects", n)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: ofA[1]}).Execute(a); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: ofA[1]}).Execute(a); err == nil {
		t.Error("a flushed object is still there")
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: ofB[1]}).Execute(b); err != nil {
		t.Errorf("one client flushed another's object: %v", err)
	}
	a.Conn.Close()
	b.Conn.Close()
	swept(t, power)
}

// TestSessionsSurviveSwappingAndEndWithTheirClient.
func TestSessionsSurviveSwappingAndEndWithTheirClient(t *testing.T) {
	_, power := tpmtest.Start(t)
	a, b := connect(t, power), connect(t, power)
	session, closer, err := tpm2.PolicySession(a, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tpm2.PolicySession(b, tpm2.TPMAlgSHA256, 16); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.PolicyGetDigest{PolicySession: session.Handle()}).Execute(a); err != nil {
		t.Fatalf("session after a swap: %v", err)
	}
	if _, err := (tpm2.PolicyGetDigest{PolicySession: session.Handle()}).Execute(b); err == nil {
		t.Error("another client used the session")
	}
	if n := len(b.handles(t, 0x03000000)) + len(b.handles(t, 0x02000000)); n != 1 {
		t.Errorf("b sees %d sessions", n)
	}
	if err := closer(); err != nil {
		t.Fatal(err)
	}
	for range 10 { // each ends with its command
		s := tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptOut))
		if _, err := (tpm2.GetRandom{BytesRequested: 8}).Execute(a, s); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, _, err := tpm2.PolicySession(a, tpm2.TPMAlgSHA256, 16); err != nil {
			t.Fatal(err)
		}
	}
	a.Conn.Close()
	b.Conn.Close()
	swept(t, power)
}

// TestClientKilledInMidCommandHarmsNobody: with half a command sent, and with a
// command under way.
func TestClientKilledInMidCommandHarmsNobody(t *testing.T) {
	_, power := tpmtest.Start(t)
	b := connect(t, power)
	object := b.primary(t)
	command, err := tpm2.MarshalCommand(tpm2.GetRandom{BytesRequested: 8})
	if err != nil {
		t.Fatal(err)
	}
	for _, sent := range [][]byte{command[:5], command[:len(command)-1], command, {0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}} {
		a := connect(t, power)
		a.primary(t)
		if _, err := a.Conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		a.Conn.Close()
		read, err := tpm2.ReadPublic{ObjectHandle: object.ObjectHandle}.Execute(b)
		if err != nil || !bytes.Equal(read.Name.Buffer, object.Name.Buffer) {
			t.Fatalf("after %d bytes: %v", len(sent), err)
		}
	}
	b.Conn.Close()
	swept(t, power)
}

// TestManyClientsAtOnceMeetNoOtherAnswers.
func TestManyClientsAtOnceMeetNoOtherAnswers(t *testing.T) {
	_, power := tpmtest.Start(t)
	var all sync.WaitGroup
	for i := range 8 {
		c := connect(t, power)
		all.Go(func() {
			template := tpm2.ECCSRKTemplate
			template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{byte(i)}}})
			own, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(c)
			if err != nil {
				t.Error(err)
				return
			}
			for range 10 {
				read, err := tpm2.ReadPublic{ObjectHandle: own.ObjectHandle}.Execute(c)
				if err != nil || !bytes.Equal(read.Name.Buffer, own.Name.Buffer) {
					t.Errorf("client %d: another object: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestPowerCycleResetsPCRsAndKeepsTheChip; a power cut does, too.
func TestPowerCycleResetsPCRsAndKeepsTheChip(t *testing.T) {
	machine, power := tpmtest.Start(t)
	name := connect(t, power).primary(t).Name.Buffer
	start := pcr4(t, power)
	for _, stop := range []func(*tpmtest.Power) error{(*tpmtest.Power).Off, (*tpmtest.Power).Kill} {
		if err := power.Extend(t.Context(), 4, sha256.Sum256(nil)); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(pcr4(t, power), start) {
			t.Fatal("extending changed nothing")
		}
		open := connect(t, power)
		if err := stop(power); err != nil {
			t.Fatal(err)
		}
		if _, err := open.tryPrimary(); err == nil {
			t.Fatal("the chip answers without power")
		}
		if err := syscallAlive(power.PID); err == nil {
			t.Fatal("swtpm still runs")
		}
		power = tpmtest.PowerOn(t, machine)
		if !bytes.Equal(pcr4(t, power), start) {
			t.Fatal("PCR 4 outlived the power")
		}
		if again := connect(t, power).primary(t).Name.Buffer; !bytes.Equal(again, name) {
			t.Fatal("another chip")
		}
	}
}

func syscallAlive(pid int) error {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err
}

func pcr4(t *testing.T, p *tpmtest.Power) []byte {
	t.Helper()
	rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(4)},
	}}}.Execute(connect(t, p))
	if err != nil {
		t.Fatal(err)
	}
	return rsp.PCRValues.Digests[0].Buffer
}

// TestMachinesManufacturedAtOnceAreDifferent and have authorities of their own.
func TestMachinesManufacturedAtOnceAreDifferent(t *testing.T) {
	var all sync.WaitGroup
	var cas [2][]byte
	for i := range cas {
		all.Go(func() {
			machine, _ := tpmtest.StartManufactured(t)
			pem, err := machine.CACertificates()
			if err != nil {
				t.Error(err)
			}
			cas[i] = pem
			if !x509.NewCertPool().AppendCertsFromPEM(pem) {
				t.Error("no certificates")
			}
			again, err := tpmtest.Manufacture(t.Context(), machine.Dir)
			if err != nil || again.Dir != machine.Dir {
				t.Errorf("manufactured again: %v", err)
			}
		})
	}
	all.Wait()
	if bytes.Equal(cas[0], cas[1]) {
		t.Error("the same authority")
	}
}

// TestMissingToolNamesItsPackage.
func TestMissingToolNamesItsPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := tpmtest.Manufacture(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "apt-get install swtpm-tools") {
		t.Errorf("swtpm_setup: %v", err)
	}
	machine := &tpmtest.Machine{Dir: t.TempDir()}
	if _, err := machine.PowerOn(t.Context()); err == nil || !strings.Contains(err.Error(), "apt-get install swtpm") {
		t.Errorf("swtpm: %v", err)
	}
}

// TestLongFolderStillGetsASocket: socket paths have 107 bytes.
func TestLongFolderStillGetsASocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.MkdirAll(filepath.Join(dir, "tpm"), 0o700); err != nil {
		t.Fatal(err)
	}
	power := tpmtest.PowerOn(t, &tpmtest.Machine{Dir: dir})
	connect(t, power).primary(t)
}

// TestSecondPowerOnOfARunningMachineFails and says why.
func TestSecondPowerOnOfARunningMachineFails(t *testing.T) {
	machine, power := tpmtest.Start(t)
	if p, err := machine.PowerOn(t.Context()); err == nil {
		_ = p.Kill()
		t.Fatal("one chip, two emulators")
	}
	connect(t, power).primary(t)
}
