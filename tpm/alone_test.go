package tpm_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// TestLeftoversOfAKilledPredecessorAreSwept from a chip without a resource manager,
// which they fill; saved sessions belong to others and stay.
func TestLeftoversOfAKilledPredecessorAreSwept(t *testing.T) {
	_, power := tpmtest.Start(t)
	raw := power.Raw()
	parked, _, err := tpm2.HMACSession(raw, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	saved := must(tpm2.ContextSave{SaveHandle: parked.Handle()}.Execute(raw))(t)
	for {
		if _, err := (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}).Execute(raw); err != nil {
			break
		}
	}
	for {
		_, _, err := tpm2.PolicySession(raw, tpm2.TPMAlgSHA256, 16)
		if err == nil {
			_, _, err = tpm2.HMACSession(raw, tpm2.TPMAlgSHA256, 16)
		}
		if err != nil {
			break
		}
	}
	before := must(power.Handles())(t)
	if len(before) < 6 {
		t.Fatalf("the chip is not full: %x", before)
	}
	if err := enrolAndAttest(t.Context(), t, tpm.New(raw)); err == nil {
		t.Fatal("a full chip does everything")
	}
	chip := tpm.New(raw, tpm.Alone())
	if err := enrolAndAttest(t.Context(), t, chip); err != nil {
		t.Fatal(err)
	}
	if err := chip.Close(); err != nil {
		t.Fatal(err)
	}
	if left := must(power.Handles())(t); len(left) != 1 {
		t.Errorf("left in the chip: %x", left)
	}
	if _, err := (tpm2.ContextLoad{Context: saved.Context}).Execute(raw); err != nil {
		t.Errorf("another's saved session has gone: %v", err)
	}
}

// TestOnlyWhoHasTheChipAloneShutsItDown, as the last thing that it does.
func TestOnlyWhoHasTheChipAloneShutsItDown(t *testing.T) {
	for name, options := range map[string][]tpm.Option{"shared": nil, "alone": {tpm.Alone()}} {
		_, power := tpmtest.Start(t)
		faults := tpmtest.NewFaults(dial(t, power))
		chip := tpm.New(faults, options...)
		if info := must(chip.Info(t.Context()))(t); info.ResourceManager == (name == "alone") {
			t.Errorf("%s: resource manager is %v", name, info.ResourceManager)
		}
		if err := chip.Close(); err != nil {
			t.Fatal(err)
		}
		at := slices.Index(faults.Codes(), tpm2.TPMCCShutdown)
		if last := len(faults.Codes()) - 1; name == "alone" && at != last || name == "shared" && at >= 0 {
			t.Errorf("%s: shut down as command %d of %d", name, at, last)
		}
	}
}

// TestSocketOfAnEmulatorIsOpenedAlone: what was left in it by clients that were killed
// is swept, as on a raw device.
func TestSocketOfAnEmulatorIsOpenedAlone(t *testing.T) {
	dir := must(os.MkdirTemp("", "gw"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := tpmtest.Tool(t, "", dir, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // the test's context ends it
	for range 4 {                        // more than it has room for
		var killed net.Conn
		for killed == nil {
			killed, _ = net.Dial("unix", socket)
		}
		_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(transport.FromReadWriter(killed))
		if err != nil {
			t.Fatal(err)
		}
		_ = killed.Close()
		chip := must(tpm.Open(t.Context(), "swtpm:"+socket))(t)
		if err := enrolAndAttest(t.Context(), t, chip); err != nil {
			t.Fatal(err)
		}
		if err := chip.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
