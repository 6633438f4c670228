package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/tpm"
)

const (
	bootData = "../../testdata/boot/"
	examples = "../../docs/schema/examples/"
)

// box is a machine on which all is well: its files below a folder, its chip, and what
// its kernel would answer.
type box struct {
	*testing.T
	*Machine
	c       *Chip // what the TPM says
	chipErr error
	volumes map[string]Volume // by path on the machine
	last    Diagnosis
}

func newBox(t *testing.T) *box {
	b := &box{T: t, volumes: map[string]Volume{}}
	b.Machine = &Machine{
		Root: folder(t), UID: os.Getuid(), Settings: agent.DefaultSettings(), Config: "/etc/gatewarden/agent.toml",
		Build: today(-30), Now: func() time.Time { return today(0) },
		Kernel: Kernel{
			Landlock: func() (int, error) { return 5, nil }, Synced: func() bool { return true }, Volume: b.volume, Block: b.block,
		},
		Chip: func(context.Context) (*Chip, error) { return b.c, b.chipErr },
		Product: func() (Product, error) {
			return Product{ESP: "/efi", Devices: map[string]map[string]string{"rootfs": {"a": "/dev/slot-a", "b": "/dev/slot-b"}}}, nil
		},
		Loader: func(Product) (string, error) { return "systemd-boot", nil },
	}
	b.goodChip()
	b.goodFiles()
	for path, v := range map[string]Volume{
		"/": {Device: 1, Kind: unix.EXT4_SUPER_MAGIC, Free: 1 << 30, ReadOnly: true}, "/efi": {Device: 2, Kind: unix.MSDOS_SUPER_MAGIC, Free: 200 << 20},
		"/var/lib": {Device: 3, Kind: unix.EXT4_SUPER_MAGIC, Free: 1 << 30},
	} {
		b.volumes[path] = v
	}
	return b
}

// folder is one that everybody may look into, unlike t.TempDir, with a short path.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func today(days int) time.Time {
	return time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC).AddDate(0, 0, days)
}

// goodChip is a chip that was measured into as the recorded boot was.
func (b *box) goodChip() {
	log, err := attest.ParseEventLog(b.load(bootData + "ovmf-secureboot.eventlog"))
	b.must(err)
	values, err := log.Replay()
	b.must(err)
	b.c = &Chip{
		Info: tpm.Info{
			Manufacturer: "INTC", Vendor: "Test", MaxAuthFail: 32, LockoutInterval: 600, OwnerAuth: true, LockoutAuth: true, ClearDisabled: true,
			Banks: []string{"sha256"}, SHA256Bank: true, NVCountersAvail: 5, ResourceManager: true,
		},
		EK:   []EKCertificate{{Kind: "rsa2048", Issuer: "CN=Maker", NotBefore: today(-99), NotAfter: today(99)}},
		PCRs: map[int][32]byte{},
	}
	for pcr, value := range values {
		b.c.PCRs[pcr] = value
	}
	pcr10, err := hex.DecodeString(strings.TrimSpace(string(b.load(bootData + "ima-tcb.pcr10.hex"))))
	b.must(err)
	b.c.PCRs[10] = [32]byte(pcr10)
}

func (b *box) goodFiles() {
	for path, text := range map[string]string{
		eventLogFile: string(b.load(bootData + "ovmf-secureboot.eventlog")),
		imaFile:      string(b.load(bootData + "ima-tcb.binary")),
		"/sys/firmware/efi/efivars/SecureBoot" + globalVariable: "\x06\x00\x00\x00\x01",
		"/sys/firmware/efi/efivars/SetupMode" + globalVariable:  "\x06\x00\x00\x00\x00",
		"/sys/class/rtc/rtc0/name":                              "rtc_cmos\n",
		"/sys/class/tpm/tpm0/tpm_version_major":                 "2\n",
		"/sys/class/tpmrm/tpmrm0/dev":                           "253:65536\n",
		"/proc/sys/kernel/unprivileged_bpf_disabled":            "",
		"/proc/cmdline":              "root=PARTLABEL=slot-a ro roothash=" + strings.Repeat("a", 64) + "\n",
		"/proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
		"/proc/self/status":          "Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n",
		"/proc/self/cgroup":          "0::/\n",
		"/proc/self/ns/user":         "", "/proc/self/ns/net": "", "/proc/self/ns/pid": "", "/proc/self/ns/ipc": "",
		"/run/systemd/system/x":                "",
		"/dev/watchdog0":                       "",
		"/etc/passwd":                          "root:x:0:0::/root:/bin/sh\ngatewarden:x:" + strconv.Itoa(os.Getuid()) + ":999::/:/bin/false\n",
		"/etc/group":                           "root:x:0:\ntss:x:" + strconv.Itoa(os.Getgid()) + ":\ngatewarden:x:999:\n",
		"/etc/gatewarden/trust/fleet.json":     string(b.load(examples + "fleet.json")),
		"/etc/gatewarden/trust/operators.json": string(b.load(examples + "operators.json")),
		"/etc/gatewarden/trust/root.json":      "{}",
		"/run/gatewarden/agent.sock":           "", "/run/gatewarden/helper.sock": "",
		"/proc/net/unix": "Num       RefCount Protocol Flags    Type St Inode Path\n" + listener("/run/gatewarden/agent.sock") + listener("/run/gatewarden/helper.sock"),
		"/dev/tpmrm0":    "", "/dev/slot-a": "", "/dev/slot-b": "",
		"/efi/EFI/Linux/gw-a.efi":                                  "kernel",
		"/efi/loader/loader.conf":                                  "timeout 0\n",
		"/var/lib/gatewarden/update/running.json":                  string(b.load(examples + "release.json")),
		"/etc/systemd/system/gatewarden.service.d/tpm.conf":        "[Service]\nLoadCredential=tpm-owner-auth:/etc/x\nLoadCredential=tpm-endorsement-auth:/etc/y\n",
		"/etc/systemd/system/gatewarden-helper.service.d/tpm.conf": "[Service]\nLoadCredential=tpm-owner-auth:/etc/x\nLoadCredential=tpm-endorsement-auth:/etc/y\n",
	} {
		b.write(path, text)
	}
	b.chmod("/dev/tpmrm0", 0o660)
}

func listener(path string) string {
	return "0000000000000000: 00000002 00000000 00010000 0001 01 1234 " + path + "\n"
}

func (b *box) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *box) load(path string) []byte {
	b.Helper()
	data, err := os.ReadFile(path)
	b.must(err)
	return data
}

func (b *box) write(path, text string) {
	b.Helper()
	b.must(os.MkdirAll(filepath.Dir(b.at(path)), 0o755))
	b.must(os.WriteFile(b.at(path), []byte(text), 0o644))
}

func (b *box) remove(paths ...string) {
	b.Helper()
	for _, path := range paths {
		b.must(os.RemoveAll(b.at(path)))
	}
}

func (b *box) chmod(path string, mode fs.FileMode) { b.Helper(); b.must(os.Chmod(b.at(path), mode)) }

// volume finds the file system of a path by the longest of volumes above it.
func (b *box) volume(path string) (Volume, error) {
	if _, err := os.Stat(path); err != nil {
		return Volume{}, err
	}
	on := "/" + strings.TrimPrefix(strings.TrimPrefix(path, b.Root), "/")
	for ; ; on = filepath.Dir(on) {
		if v, ok := b.volumes[on]; ok {
			return v, nil
		}
		if on == "/" {
			return Volume{}, errors.New("no such volume")
		}
	}
}

func (b *box) block(path string) (bool, error) {
	_, err := os.Stat(path)
	return err == nil && filepath.Base(path) != "plain", err
}

// sees fails unless the diagnosis has a finding of this case, or of this check at
// level unknown, with the words in it.
func (b *box) sees(name string, texts ...string) Finding {
	b.Helper()
	b.last = Run(b.Context(), b.Machine)
	b.fits()
	for _, f := range b.last.Findings {
		if f.Case != name && !(f.Level == Unknown && f.Check == name) {
			continue
		}
		if all := f.Found + "\n" + f.Means + "\n" + f.Do; !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(all, text) }) {
			return f
		}
	}
	b.Errorf("no finding %s with %q in:\n%s", name, texts, text(b.last))
	return Finding{}
}

// fine fails unless these checks found all well.
func (b *box) fine(checks ...string) {
	b.Helper()
	for _, f := range Run(b.Context(), b.Machine).Findings {
		if slices.Contains(checks, f.Check) && f.Level != OK {
			b.Errorf("%s %s%s: %s", f.Level, f.Check, f.Case, f.Found)
		}
	}
}

// fits fails unless the text fits a serial console: 80 columns, no letter beyond ASCII.
func (b *box) fits() {
	b.Helper()
	for line := range strings.Lines(text(b.onMachine())) {
		if line = strings.TrimSuffix(line, "\n"); len(line) > columns || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			b.Errorf("%q does not fit", line)
		}
	}
}

// onMachine is the last diagnosis with paths as they are on the machine.
func (b *box) onMachine() Diagnosis {
	d := b.last
	d.Findings = slices.Clone(d.Findings)
	for i := range d.Findings {
		d.Findings[i].Found = strings.ReplaceAll(d.Findings[i].Found, b.Root, "")
	}
	return d
}

func text(d Diagnosis) string {
	var s strings.Builder
	Print(&s, d)
	return s.String()
}
