package attest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// variable encodes UEFI_VARIABLE_DATA.
func variable(guid []byte, name string, contents []byte) []byte {
	wide := utf16Bytes(name)
	data := bytes.Clone(guid)
	data = binary.LittleEndian.AppendUint64(data, uint64(len(wide)/2-1))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(contents)))
	data = append(data, wide[:len(wide)-2]...)
	return append(data, contents...)
}

// measured is an event whose digest covers its data.
func measured(pcr int, kind EventType, data []byte) LogEvent {
	return LogEvent{PCR: pcr, Type: kind, Digest: hashOf(data), Data: data}
}

// factsOf are those of a log of these events, taken for true.
func factsOf(t *testing.T, events ...LogEvent) Facts {
	t.Helper()
	raw := NewEventLog()
	for _, e := range events {
		raw = AppendEvent(raw, e)
	}
	log, err := ParseEventLog(raw)
	if err != nil {
		t.Fatal(err)
	}
	return extractFacts(log, func(int) bool { return true })
}

func guidOf(text string) []byte { // in the order of memory
	plain := strings.ReplaceAll(text, "-", "")
	out := make([]byte, 16)
	for i := range out {
		var b byte
		for _, c := range []byte(plain[2*i : 2*i+2]) {
			b = b<<4 | byte(strings.IndexByte("0123456789abcdef", c))
		}
		out[i] = b
	}
	slices.Reverse(out[:4])
	slices.Reverse(out[4:6])
	slices.Reverse(out[6:8])
	return out
}

func separatorOf(pcr int) LogEvent { return measured(pcr, evSeparator, make([]byte, 4)) }

func TestShimTellsWhetherItValidates(t *testing.T) {
	shim := func(name string, contents []byte) LogEvent {
		return measured(7, evVariableAuthority, variable(guidOf(shimLock), name, contents))
	}
	if f := factsOf(t, separatorOf(7)); f.Shim != nil {
		t.Errorf("a boot without shim has %+v", f.Shim)
	}
	f := factsOf(t, separatorOf(7), shim("SbatLevel", []byte("sbat,1,2023012900\nshim,2\n")))
	if f.Shim == nil || f.Shim.Validation != "on" || f.Shim.SBAT != "sbat,1,2023012900 shim,2" {
		t.Errorf("shim: %+v", f.Shim)
	}
	for _, state := range [][]byte{{1}, {2}, {}, {0, 0}} {
		if f := factsOf(t, separatorOf(7), shim("MokSBState", state)); f.Shim == nil || f.Shim.Validation != "off" {
			t.Errorf("MokSBState %x: %+v", state, f.Shim)
		}
	}
	// Whoever alters the log hides no state behind bytes that no digest covers.
	hidden := shim("MokSBState", []byte{1})
	hidden.Data = variable(guidOf(shimLock), "MokSBState", []byte{0})
	if f := factsOf(t, separatorOf(7), shim("SbatLevel", []byte("sbat,1")), hidden); f.Shim.Validation != "unknown" {
		t.Errorf("MokSBState that the log alters: %+v", f.Shim)
	}
	lists := factsOf(t, measured(14, evIPL, []byte("MokList\x00")))
	if len(lists.MOK) != 1 || lists.MOK[0].Described != "MokList" || lists.Shim != nil {
		t.Errorf("lists of the owner: %+v", lists.MOK)
	}
}

// A byte of padding is forgiven where it was measured, nothing else is.
func TestBytesBehindAVariableAreNoPartOfIt(t *testing.T) {
	data := variable(guidOf(shimLock), "Shim", []byte("text"))
	old := append(bytes.Clone(data), 0, 0, 0, 0, 0)
	if f := factsOf(t, separatorOf(7), LogEvent{PCR: 7, Digest: hashOf(old), Data: append(bytes.Clone(old), 0xaf)}); len(f.Authorities) != 1 || f.Authorities[0].Text != "text" {
		t.Errorf("an event of an old shim: %+v", f.Authorities)
	}
	for _, behind := range [][]byte{{1}, {0, 1}, make([]byte, 8)} {
		if f := factsOf(t, separatorOf(7), measured(7, evVariableAuthority, append(bytes.Clone(data), behind...))); len(f.Authorities) != 0 || len(f.Unread) != 1 {
			t.Errorf("%x behind a variable: %+v", behind, f.Authorities)
		}
	}
}

func TestDataThatNoDigestCoversIsNoFact(t *testing.T) {
	off := variable(guidOf(globalVariable), "SecureBoot", []byte{0})
	on := variable(guidOf(globalVariable), "SecureBoot", []byte{1})
	f := factsOf(t, LogEvent{PCR: 7, Type: evVariableDriver, Digest: hashOf(off), Data: on}, separatorOf(7))
	if f.SecureBoot != "unknown" || len(f.Unread) != 1 || f.Unread[0].Text != "described as SecureBoot" {
		t.Errorf("Secure Boot %s, unread %+v", f.SecureBoot, f.Unread)
	}
	entry := variable(guidOf(globalVariable), "Boot0001", []byte("x"))
	f = factsOf(t, LogEvent{PCR: 1, Type: evVariableBoot, Digest: Digest{1}, Data: entry})
	if len(f.BootVariables) != 0 || len(f.Unread) != 1 {
		t.Errorf("boot variables %+v", f.BootVariables)
	}
	f = factsOf(t, LogEvent{PCR: 1, Type: evVariableBoot, Digest: hashOf([]byte("x")), Data: entry})
	if len(f.BootVariables) != 1 || f.BootVariables[0].Doubt == "" {
		t.Errorf("a name that no digest covers: %+v", f.BootVariables)
	}
	f = factsOf(t, LogEvent{PCR: 5, Type: evGPT, Digest: Digest{1}, Data: gpt(1)})
	if len(f.Disks) != 1 || f.Disks[0].Doubt == "" || f.Disks[0].Partitions != nil {
		t.Errorf("disks %+v", f.Disks)
	}
}

// gpt encodes UEFI_GPT_DATA with n partitions.
func gpt(n int) []byte {
	data := append([]byte("EFI PART"), make([]byte, 84)...)
	data[56] = 0xd1
	binary.LittleEndian.PutUint32(data[84:], 128)
	data = binary.LittleEndian.AppendUint64(data, uint64(n))
	for i := range n {
		entry := make([]byte, 128)
		entry[0], entry[32], entry[40] = 0xa1, byte(i+1), byte(i+9)
		copy(entry[56:], "s\x00l\x00o\x00t\x00-\x00a\x00")
		data = append(data, entry...)
	}
	return data
}

func TestPartitionTableIsReadStrictly(t *testing.T) {
	f := factsOf(t, measured(5, evGPT, gpt(2)))
	if len(f.Disks) != 1 || len(f.Disks[0].Partitions) != 2 || f.Disks[0].Doubt != "" {
		t.Fatalf("disks %+v", f.Disks)
	}
	if p := f.Disks[0].Partitions[1]; p.Name != "slot-a" || p.First != 2 || p.Last != 10 || !strings.HasPrefix(p.Type, "000000a1") {
		t.Errorf("partition %+v", p)
	}
	if !strings.HasPrefix(f.Disks[0].Disk, "000000d1") {
		t.Errorf("disk %s", f.Disks[0].Disk)
	}
	huge, other, odd := gpt(1), gpt(1), gpt(1)
	binary.LittleEndian.PutUint64(huge[92:], 1<<60)
	binary.LittleEndian.PutUint32(odd[84:], 64)
	other[0] = 'X'
	for name, data := range map[string][]byte{
		"a count of 2^60": huge, "entries of 64 bytes": odd, "another signature": other,
		"cut": gpt(2)[:300], "a byte behind": append(gpt(1), 0), "empty": {},
	} {
		if f := factsOf(t, measured(5, evGPT2, data)); len(f.Disks) != 1 || f.Disks[0].Doubt == "" || f.Disks[0].Partitions != nil {
			t.Errorf("%s: %+v", name, f.Disks)
		}
	}
}

func TestGRUBIsReadInTheWordsThatItMeasured(t *testing.T) {
	grub := func(data string, extended string) LogEvent {
		return LogEvent{PCR: 8, Type: evIPL, Digest: hashOf([]byte(extended)), Data: []byte(data)}
	}
	f := factsOf(t,
		grub("grub_cmd: echo a: b\x00", "echo a: b"),
		grub("grub_cmd set pager=1\x00", "set pager=1\x00"), // RHEL 8
		grub("kernel_cmdline: /vmlinuz quiet\x00", "/vmlinuz quiet"),
		grub("grub_kernel_cmdline /old quiet\x00", "/old quiet\x00"),
		grub("kernel_cmdline: /vmlinuz quiet\x00", "/vmlinuz init=/bin/sh"),
		measured(8, evIPL, utf16Bytes("root=/dev/sda2")),
		LogEvent{PCR: 9, Type: evIPL, Digest: Digest{3}, Data: []byte("(hd0,gpt1)/grub.cfg\x00")},
		LogEvent{PCR: 9, Type: evEventTag, Digest: Digest{4}, Data: eventTag(initrdTag, "Linux initrd")},
	)
	if !slices.Equal(f.GRUB, []string{"echo a: b", "set pager=1"}) {
		t.Errorf("commands %q", f.GRUB)
	}
	var lines []string
	for _, line := range f.CommandLines {
		lines = append(lines, line.Text)
	}
	if !slices.Equal(lines, []string{"/vmlinuz quiet", "/old quiet", "root=/dev/sda2"}) {
		t.Errorf("command lines %q", lines)
	}
	if len(f.Unread) != 1 || f.Unread[0].Digest != hashOf([]byte("/vmlinuz init=/bin/sh")) {
		t.Errorf("what was measured otherwise than it is described is not told: %+v", f.Unread)
	}
	if len(f.Files) != 2 || f.Files[0].Described != "(hd0,gpt1)/grub.cfg" || f.Files[1].Described != "initrd" {
		t.Errorf("files %+v", f.Files)
	}
}

func TestOptionROMIsNamedByItsDevicePath(t *testing.T) {
	path := []byte{2, 1, 12, 0, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0, 1, 1, 6, 0, 3, 2}
	f := factsOf(t, LogEvent{PCR: 2, Type: evBootDriver, Digest: Digest{7}, Data: imageLoad(path)}, separatorOf(2))
	if len(f.OptionROMs) != 1 || f.OptionROMs[0].Path != "PciRoot(0x0)/Pci(0x2,0x3)" || f.OptionROMs[0].Digest != (Digest{7}) {
		t.Errorf("option ROMs %+v", f.OptionROMs)
	}
	if len(f.Firmware) != 2 {
		t.Errorf("an option ROM is firmware too: %+v", f.Firmware)
	}
}

func TestFirmwareVersionIsReadInEveryForm(t *testing.T) {
	for want, data := range map[string][]byte{
		"Firmware v1":                          utf16Bytes("Firmware v1"),
		"G5B1a":                                []byte("G5B1a"),
		"546bfb1e-1d0c-4055-a4ad-4ef4bf17b83a": guidOf("546bfb1e-1d0c-4055-a4ad-4ef4bf17b83a"),
	} {
		if f := factsOf(t, measured(0, evSCRTMVersion, data)); f.FirmwareVersion != want {
			t.Errorf("%q, want %q", f.FirmwareVersion, want)
		}
		if f := factsOf(t, LogEvent{PCR: 0, Type: evSCRTMVersion, Digest: Digest{1}, Data: data}); f.FirmwareVersion != "" {
			t.Errorf("%q, which no digest covers", f.FirmwareVersion)
		}
	}
}

// A key in another form than a certificate does not hide in a signature list.
func TestSignaturesOfOtherKindsAreCounted(t *testing.T) {
	rsa := guidOf("3c5766e8-269c-4e34-aa14-ed776e85b3b6") // EFI_CERT_RSA2048_GUID
	list := append(bytes.Clone(rsa), make([]byte, 12)...)
	binary.LittleEndian.PutUint32(list[16:], 28+16+256)
	binary.LittleEndian.PutUint32(list[24:], 16+256)
	list = append(list, make([]byte, 16+256)...)
	f := factsOf(t, measured(7, evVariableDriver, variable(guidOf(imageSecurity), "db", list)), separatorOf(7))
	if len(f.Keys) != 1 || f.Keys[0].Others != 1 || f.Keys[0].Doubt != "" {
		t.Fatalf("keys %+v", f.Keys)
	}
	reference := KeyReference{Variable: "db", Certificates: []Digest{{1}}}
	if text := reference.refuses(&f.Keys[0]); !strings.Contains(text, "neither certificates nor hashes") {
		t.Errorf("a policy of certificates takes it: %q", text)
	}
}

func TestChangesOfOwnersKeysShimAndDiskAreTold(t *testing.T) {
	state := func(value byte) LogEvent {
		return measured(7, evVariableAuthority, variable(guidOf(shimLock), "MokSBState", []byte{value}))
	}
	before := factsOf(t, separatorOf(7), state(0), measured(14, evIPL, []byte("MokList\x00")), measured(5, evGPT, gpt(1)))
	after := factsOf(t, separatorOf(7), state(1), LogEvent{PCR: 14, Type: evIPL, Digest: Digest{9}, Data: []byte("MokList\x00")}, measured(5, evGPT, gpt(2)))
	if changes := Diff(&before, &before); len(changes) != 0 {
		t.Errorf("the same boot twice: %q", changes)
	}
	told := strings.Join(Diff(&before, &after), "\n")
	for _, want := range []string{
		"shim's validation: `on` became `off`", "keys of the machine's owner (MOK) (described as MokList) changed, PCR 14, event 3",
		"partition table of disk 000000d1-0000-0000-0000-000000000000 is another, PCR 5, event 4",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("it is not told: %s; but\n%s", want, told)
		}
	}
}
