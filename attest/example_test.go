package attest_test

import (
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/gatewarden/gatewarden/attest"
)

func ExampleParseEventLog() {
	raw, err := os.ReadFile("../testdata/boot/ovmf-uki.eventlog")
	if err != nil {
		fmt.Println(err)
		return
	}
	log, err := attest.ParseEventLog(raw)
	if err != nil {
		fmt.Println(err)
		return
	}
	pcrs, err := log.Replay()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(log.Format, len(log.Events), "events")
	fmt.Println("PCR 4:", pcrs[4])
	// Output:
	// crypto-agile 37 events
	// PCR 4: 85951a840df9733e77cd99bc93e263b33f9c8c0ec2eee4a9bd8e76cf1189cff2
}

// Before a release is shipped, what its boot will measure is known: the events
// for a log, and the reference values for the policy.
func ExampleBootEvents() {
	boot := attest.Boot{
		UKI:         sha256.Sum256([]byte("the image")),
		UKIPath:     `\EFI\Linux\gw-a.efi`,
		Kernel:      sha256.Sum256([]byte("the kernel in it")),
		Sections:    []attest.Section{{Name: ".linux", Digest: sha256.Sum256([]byte("its contents"))}},
		CommandLine: "root=PARTLABEL=slot-a quiet",
	}
	for _, e := range attest.BootEvents(boot) {
		fmt.Println(e.PCR, e.Type)
	}
	release := boot.Release("gw", "1.0.0")
	fmt.Println(release.Name(), release.CommandLines)
	// Output:
	// 4 EV_EFI_BOOT_SERVICES_APPLICATION
	// 11 EV_IPL
	// 11 EV_IPL
	// 12 EV_IPL
	// 4 EV_EFI_BOOT_SERVICES_APPLICATION
	// 9 EV_EVENT_TAG
	// 5 EV_EFI_ACTION
	// 5 EV_EFI_ACTION
	// gw 1.0.0 [root=PARTLABEL=slot-a quiet]
}

func ExampleQualifyingData() {
	nonce := make([]byte, 32)
	claims := []byte(`{"v":1}`)
	fmt.Printf("%d bytes\n", len(attest.QualifyingData("meadow", "gw-abcdefghijklmnop", nonce, claims)))
	// Output: 32 bytes
}

func ExampleDiff() {
	before := &attest.Facts{SecureBoot: "on", Accounted: []int{7}}
	after := &attest.Facts{SecureBoot: "off", Accounted: []int{7}}
	for _, line := range attest.Diff(before, after) {
		fmt.Println(line)
	}
	// Output: Secure Boot: `on` became `off`
}

func ExampleParsePolicy() {
	_, err := attest.ParsePolicy([]byte(`{"v":1,"issued":"2026-11-23T12:00:00Z","fleet":"meadow","releases":[],"rules":{"frimware":"info"}}`))
	fmt.Println(err)
	// Output: parse attestation policy: there is no rule "frimware"; the rules are event-log, pcr-replay, command-line, boot-application, boot-phases, uki-sections, extensions, clock, ima, secure-boot-keys, firmware, firmware-state, secure-boot, health-report
}
