package attest_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"

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
	// Output: parse attestation policy: there is no rule "frimware"; the rules are event-log, pcr-replay, command-line, boot-application, boot-phases, uki-sections, grub, extensions, clock, ima, ima-files, ima-signatures, ima-violations, secure-boot-keys, firmware, firmware-state, secure-boot, health-report, health-grade, software-keys
}

// What a log says is compared with what the TPM at hand holds.
func ExampleEventLog_Compare() {
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
	compared, err := log.Compare(attest.AlgSHA256, map[int][]byte{13: make([]byte, 32), 4: make([]byte, 32)})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range compared {
		fmt.Println("PCR", c.PCR, "replays:", c.OK)
	}
	text, covered := log.Events[4].Describe()
	fmt.Println(text, covered)
	// Output:
	// PCR 4 replays: false
	// PCR 13 replays: true
	// SecureBoot = 0 true
}

// An IMA list, here in the kernel's ASCII form, is replayed to PCR 10.
func ExampleReplayIMA() {
	line := "10 80255d9c7dad91ef5f21b18560a47642d6f4d653 ima-ng sha256:96d7fae8adb7286a419a88f78c13d35fb782d63df654b7db56f154765698b754 /data\n"
	list, err := attest.IMAFromText([]byte(line))
	if err != nil {
		fmt.Println(err)
		return
	}
	pcr, err := attest.ReplayIMABank(list, attest.AlgSHA256)
	if err != nil {
		fmt.Println(err)
		return
	}
	facts, err := attest.ReplayIMA(list, attest.Digest(pcr))
	fmt.Println(facts.Entries, "entries,", facts.Ahead, "ahead,", err)
	// Output:
	// 1 entries, 0 ahead, <nil>
}

// Files are allowed by a list in the form of sha256sum; SHA-1 is not taken.
// A policy names lists of files by digest; they are read once, and held against it.
func ExamplePolicy_ReadLists() {
	list := fmt.Appendf(nil, "%x  /usr/bin/true\n", sha256.Sum256([]byte("program")))
	p, err := attest.ParsePolicy(fmt.Appendf(nil, `{"v":1,"issued":"2026-11-26T00:00:00Z","fleet":"example","releases":[],"ima":{"lists":["%x"]}}`, sha256.Sum256(list)))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.ReadLists(func(attest.Digest) ([]byte, error) { return list, nil }, nil))
	err = p.ReadLists(func(attest.Digest) ([]byte, error) { return []byte("another list"), nil }, nil)
	fmt.Println(strings.Contains(err.Error(), "it has another SHA-256 than its name says"))
	// Output:
	// <nil>
	// true
}
