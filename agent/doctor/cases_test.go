package doctor

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/tpm"
)

// broken breaks a machine in one way for each case, and says what must be told.
func broken() map[string]func(*box) []string {
	noTPM := func(b *box) { b.c, b.chipErr = nil, fmt.Errorf("open TPM: %w: %w", tpm.ErrAbsent, fs.ErrNotExist) }
	return map[string]func(*box) []string{
		"tpm.absent": func(b *box) []string {
			noTPM(b)
			b.remove("/sys/class/tpm", "/sys/class/tpmrm", "/dev/tpmrm0")
			return []string{"nothing in /sys/class/tpm", "firmware setup"}
		},
		"tpm.software-keys": func(b *box) []string {
			noTPM(b)
			b.remove("/sys/class/tpm", "/sys/class/tpmrm", "/dev/tpmrm0")
			b.Settings.Identity.AllowSoftwareKeys = true
			return []string{"nothing can be sealed"}
		},
		"tpm.gone": func(b *box) []string {
			noTPM(b)
			b.remove("/sys/class/tpm", "/sys/class/tpmrm", "/dev/tpmrm0")
			b.Settings.Identity.AllowSoftwareKeys = true
			b.write(b.Settings.State+"/identity/ek.json", "{}")
			return []string{"never take its place", "enrols as another one"}
		},
		"tpm.version-1": func(b *box) []string {
			noTPM(b)
			b.write("/sys/class/tpm/tpm0/tpm_version_major", "1\n")
			return []string{"version 1"}
		},
		"tpm.no-manager": func(b *box) []string {
			noTPM(b)
			b.remove("/sys/class/tpmrm")
			return []string{"/sys/class/tpmrm/tpmrm0 is not", "4.12"}
		},
		"tpm.no-node": func(b *box) []string { noTPM(b); return []string{"/dev/tpmrm0 is not"} },
		"tpm.raw": func(b *box) []string {
			b.c.ResourceManager = false
			b.Settings.TPM = "/dev/tpm0"
			return []string{"agent.toml names /dev/tpm0"}
		},
		"tpm.held": func(b *box) []string {
			b.c, b.chipErr = nil, fmt.Errorf("open TPM: %w: %w", tpm.ErrBusy, syscall.EBUSY)
			return []string{"fuser"}
		},
		"tpm.silent": func(b *box) []string { b.c, b.chipErr = nil, context.DeadlineExceeded; return []string{"off and on"} },
		"tpm.broken": func(b *box) []string { b.c, b.chipErr = nil, tpm.ErrDamaged; return []string{"damaged TPM"} },
		"tpm-access.denied": func(b *box) []string {
			b.chmod("/dev/tpmrm0", 0o600)
			return []string{"mode 0600", "udevadm trigger"}
		},
		"tpm-access.open": func(b *box) []string { b.chmod("/dev/tpmrm0", 0o666); return []string{"mode 0666"} },
		"pcrs.no-bank": func(b *box) []string {
			b.c.SHA256Bank, b.c.Banks, b.c.PCRs = false, []string{"sha1"}, nil
			return []string{"sha1", "tpm2_pcrallocate"}
		},
		"pcrs.blank": func(b *box) []string {
			b.c.PCRs = map[int][32]byte{0: {31: 3}}
			b.remove(eventLogFile)
			return []string{"there is no event log"}
		},
		"pcrs.reset": func(b *box) []string {
			b.c.PCRs = map[int][32]byte{}
			return []string{"although there is an event log"}
		},
		"event-log.no-securityfs": func(b *box) []string { b.remove("/sys/kernel/security"); return []string{"mount -t securityfs"} },
		"event-log.none":          func(b *box) []string { b.remove("/sys/kernel/security/tpm0"); return []string{"the machine has none"} },
		"event-log.empty":         func(b *box) []string { b.write(eventLogFile, ""); return []string{"no bytes"} },
		"event-log.damaged": func(b *box) []string {
			b.write(eventLogFile, string(b.load(bootData + "ovmf-uki.eventlog")[:3000]))
			return []string{"parse event log: event "}
		},
		"event-log.sha1": func(b *box) []string { b.write(eventLogFile, legacyLog()); return []string{"sha256"} },
		"event-log.mismatch": func(b *box) []string {
			b.c.PCRs[4], b.c.PCRs[7] = [32]byte{1}, [32]byte{1}
			return []string{"PCRs 4, 7"}
		},
		"event-log.thin":      func(b *box) []string { b.thin(); return []string{"none in PCRs 8, 9, 11 and 12"} },
		"secure-boot.no-uefi": func(b *box) []string { b.remove("/sys/firmware"); return []string{"CSM"} },
		"secure-boot.no-variables": func(b *box) []string {
			b.remove("/sys/firmware/efi/efivars")
			b.write("/sys/firmware/efi/fw_platform_size", "64")
			return []string{"mount -t efivarfs"}
		},
		"secure-boot.off": func(b *box) []string {
			b.write("/sys/firmware/efi/efivars/SecureBoot"+globalVariable, "\x06\x00\x00\x00\x00")
			return []string{"Secure Boot is off", "PCR 4"}
		},
		"secure-boot.setup": func(b *box) []string {
			b.write("/sys/firmware/efi/efivars/SetupMode"+globalVariable, "\x06\x00\x00\x00\x01")
			return []string{"setup mode"}
		},
		"secure-boot.odd": func(b *box) []string {
			b.write("/sys/firmware/efi/efivars/SecureBoot"+globalVariable, "\x06\x00\x00\x00\x02")
			return []string{"is 02"}
		},
		"ima.off":       func(b *box) []string { b.remove("/sys/kernel/security/ima"); return []string{"ima_policy=tcb"} },
		"ima.no-policy": func(b *box) []string { b.bootOnly(); return []string{"1 entry"} },
		"ima.no-chip":   func(b *box) []string { b.c.PCRs[10] = [32]byte{}; return []string{"PCR 10 is zero"} },
		"ima.mismatch":  func(b *box) []string { b.c.PCRs[10] = [32]byte{1}; return []string{"no prefix"} },
		"ima.damaged":   func(b *box) []string { b.write(imaFile, "garbage"); return []string{"replay IMA list"} },
		"verity.none":   func(b *box) []string { b.write("/proc/cmdline", "root=/dev/sda1\n"); return []string{"roothash="} },
		"ek.none":       func(b *box) []string { b.c.EK = nil; return []string{"--accept-ek"} },
		"ek.unreadable": func(b *box) []string { b.c.EK[0].Problem = "asn1: no"; return []string{"rsa2048: asn1: no"} },
		"ek.expired": func(b *box) []string {
			b.c.EK[0].NotAfter = today(-1)
			return []string{"valid 2026-08-19 to 2026-11-25"}
		},
		"tpm-passwords.owner-withheld": func(b *box) []string {
			b.remove("/etc/systemd/system/gatewarden-helper.service.d")
			return []string{"tpm-owner-auth"}
		},
		"tpm-passwords.counter-withheld": func(b *box) []string {
			b.c.SRK = "standard"
			b.remove("/etc/systemd/system/gatewarden-helper.service.d")
			return []string{"there is no epoch counter"}
		},
		"tpm-passwords.endorsement-withheld": func(b *box) []string {
			b.c.EndorsementAuth = true
			b.remove("/etc/systemd/system/gatewarden.service.d")
			return []string{"tpm-endorsement-auth"}
		},
		"tpm-passwords.open": func(b *box) []string {
			b.c.OwnerAuth, b.c.LockoutAuth, b.c.ClearDisabled = false, false, false
			return []string{"no owner password, no lockout password, TPM2_Clear is allowed", "tpm2_clearcontrol"}
		},
		"lockout.near":   func(b *box) []string { b.c.LockoutCounter = 16; return []string{"16 of 32", "every 600 s"} },
		"lockout.locked": func(b *box) []string { b.c.LockedOut = true; return []string{"tpm2_dictionarylockout"} },
		"nv.full":        func(b *box) []string { b.c.NVCountersAvail = 0; return []string{"tpm2_nvundefine"} },
		"seal.no-uki":    func(b *box) []string { delete(b.c.PCRs, 11); return []string{"PCR 11 is zero"} },
		"seal.no-policies": func(b *box) []string {
			b.release(func(r map[string]any) { delete(r, "pcr_policies") })
			return []string{"2.1.0 has no PCR policy"}
		},
		"seal.pcr4-missing": func(b *box) []string {
			b.secureBootOff()
			b.release(func(r map[string]any) {
				for _, p := range r["pcr_policies"].([]any) {
					p.(map[string]any)["pcrs"] = []int{11, 12, 13}
				}
			})
			return []string{"lack 4", "release build --uki"}
		},
		"seal.pcr4-wanted": func(b *box) []string {
			b.secureBootOff()
			b.remove("/var/lib/gatewarden/update")
			return []string{"no release was taken in yet"}
		},
		"config.broken": func(b *box) []string { b.ConfigErr = errors.New("unknown key `sokcet`"); return []string{"sokcet"} },
		"trust.missing": func(b *box) []string {
			b.remove("/etc/gatewarden/trust/fleet.json", "/etc/gatewarden/trust/operators.json")
			return []string{"has no fleet.json and no operators.json"}
		},
		"trust.damaged": func(b *box) []string {
			b.write("/etc/gatewarden/trust/operators.json", "{")
			return []string{"operators.json: "}
		},
		"trust.two-fleets": func(b *box) []string {
			b.write("/etc/gatewarden/trust/fleet.json", strings.Replace(string(b.load(examples+"fleet.json")), `"fleet": "example"`, `"fleet": "other"`, 1))
			return []string{"other and example"}
		},
		"trust.writable": func(b *box) []string { b.chmod("/etc/gatewarden/trust", 0o777); return []string{"mode 0777"} },
		"trust.no-root":  func(b *box) []string { b.remove("/etc/gatewarden/trust/root.json"); return []string{"release init"} },
		"accounts.missing": func(b *box) []string {
			b.write("/etc/group", "root:x:0:\n")
			return []string{"there is no group gatewarden, no group tss", "systemd-sysusers"}
		},
		"helper.none": func(b *box) []string { b.write("/proc/net/unix", ""); return []string{"gatewarden-helper.socket"} },
		"helper.owner": func(b *box) []string {
			b.write("/etc/passwd", "gatewarden:x:54321:54321::/:/bin/false\n")
			return []string{"gatewarden is 54321"}
		},
		"agent.stopped": func(b *box) []string {
			b.remove("/run/gatewarden/agent.sock")
			return []string{"journalctl -u gatewarden"}
		},
		"product.none":    func(b *box) []string { b.productIs(fs.ErrNotExist); return []string{"no /etc/gatewarden/product.json"} },
		"product.refused": func(b *box) []string { b.productIs(errors.New("it belongs to user 7")); return []string{"user 7"} },
		"product.slot": func(b *box) []string {
			b.remove("/dev/slot-b")
			return []string{"rootfs of slot b: there is no /dev/slot-b"}
		},
		"product.esp": func(b *box) []string { delete(b.volumes, "/efi"); return []string{"no mounted FAT"} },
		"product.esp-full": func(b *box) []string {
			b.on("/efi", func(v *Volume) { v.Free = 3 })
			return []string{"largest kernel image"}
		},
		"product.esp-read-only": func(b *box) []string {
			b.on("/efi", func(v *Volume) { v.ReadOnly = true })
			return []string{"fsck.vfat"}
		},
		"boot-loader.none": func(b *box) []string {
			b.Loader = func(Product) (string, error) { return "", errors.New("the boot loader does not count boots") }
			return []string{"does not count boots", "systemd-boot 250"}
		},
		"boot-loader.demo": func(b *box) []string {
			b.Loader = func(Product) (string, error) { return "file", nil }
			return []string{"loader.json"}
		},
		"boot-loader.pinned": func(b *box) []string {
			b.write("/efi/loader/loader.conf", "timeout 0\ndefault arch.conf\n")
			return []string{"line default"}
		},
		"disk.volatile": func(b *box) []string {
			b.on("/var/lib", func(v *Volume) { v.Kind = unix.TMPFS_MAGIC })
			return []string{"in memory"}
		},
		"disk.read-only": func(b *box) []string {
			b.on("/var/lib", func(v *Volume) { v.ReadOnly = true })
			return []string{"/var/lib/gatewarden is"}
		},
		"disk.in-slot": func(b *box) []string {
			b.on("/var/lib", func(v *Volume) { v.Device = 1 })
			return []string{"root file system"}
		},
		"disk.low": func(b *box) []string {
			b.on("/var/lib", func(v *Volume) { v.Free = 60 << 20 })
			return []string{"60.0 MiB free"}
		},
		"disk.full": func(b *box) []string {
			b.on("/var/lib", func(v *Volume) { v.Free = 1 << 20 })
			return []string{"1.0 MiB free"}
		},
		"clock.no-rtc": func(b *box) []string { b.remove("/sys/class/rtc/rtc0"); return []string{"battery"} },
		"clock.behind": func(b *box) []string {
			b.Now = func() time.Time { return time.Unix(0, 0) }
			return []string{"the clock says 1970-01-01, it is 2026-10-27"}
		},
		"clock.not-set": func(b *box) []string { b.Kernel.Synced = func() bool { return false }; return []string{"challenge"} },
		"kernel.old": func(b *box) []string {
			b.write("/proc/sys/kernel/osrelease", "5.4.0\n")
			return []string{"Linux 5.4.0"}
		},
		"kernel.no-landlock": func(b *box) []string {
			b.Kernel.Landlock = func() (int, error) { return 0, unix.ENOSYS }
			return []string{"lsm="}
		},
		"kernel.limits": func(b *box) []string {
			b.remove("/proc/self/ns/user", "/proc/sys/kernel/unprivileged_bpf_disabled")
			b.write("/proc/self/status", "Name:\tx\n")
			return []string{"SECCOMP_FILTER, USER_NS, BPF_SYSCALL"}
		},
		"kernel.no-systemd": func(b *box) []string { b.remove("/run/systemd"); return []string{"--listen"} },
		"watchdog.none":     func(b *box) []string { b.remove("/dev/watchdog0"); return []string{"power switch"} },
	}
}

func (b *box) secureBootOff() {
	b.write("/sys/firmware/efi/efivars/SecureBoot"+globalVariable, "\x06\x00\x00\x00\x00")
}

func (b *box) productIs(err error) {
	b.Product = func() (Product, error) { return Product{}, fmt.Errorf("read product file: %w", err) }
}

func (b *box) on(path string, change func(*Volume)) {
	v := b.volumes[path]
	change(&v)
	b.volumes[path] = v
}

// release alters what the owner signed of the release that runs.
func (b *box) release(change func(map[string]any)) {
	b.Helper()
	var r map[string]any
	b.must(json.Unmarshal(b.load(examples+"release.json"), &r))
	change(r)
	data, err := json.Marshal(r)
	b.must(err)
	b.write("/var/lib/gatewarden/update/running.json", string(data))
}

// thin leaves out what a boot loader measured.
func (b *box) thin() {
	b.Helper()
	log, err := attest.ParseEventLog(b.load(bootData + "ovmf-secureboot.eventlog"))
	b.must(err)
	raw := attest.NewEventLog()
	for _, e := range log.Events[1:] {
		if !slices.Contains([]int{8, 9, 11, 12}, e.PCR) {
			raw = attest.AppendEvent(raw, e)
		}
	}
	b.write(eventLogFile, string(raw))
}

// bootOnly leaves the IMA list with its first entry, and PCR 10 as that made it.
func (b *box) bootOnly() {
	b.Helper()
	list := b.load(bootData + "ima-tcb.binary")
	at := 24 + 4 + int(binary.LittleEndian.Uint32(list[24:])) // PCR, digest, template name
	end := at + 4 + int(binary.LittleEndian.Uint32(list[at:]))
	b.write(imaFile, string(list[:end]))
	b.c.PCRs[10] = attest.Extend(attest.Digest{}, sha256.Sum256(list[at+4:end]))
}

// legacyLog is one event of a log that has SHA-1 digests only.
func legacyLog() string { return strings.Repeat("\x00", 28) + "\x00\x00\x00\x00" }

// TestEveryCaseIsFoundWhereItIs, in words that fit a serial console; and no case of
// the list is without its machine.
func TestEveryCaseIsFoundWhereItIs(t *testing.T) {
	machines := broken()
	for _, check := range All() {
		for _, c := range check.List() {
			name := check.Name + "." + c.Name
			breaks := machines[name]
			if breaks == nil {
				t.Errorf("no machine of this test has %s", name)
				continue
			}
			delete(machines, name)
			t.Run(name, func(t *testing.T) {
				b := newBox(t)
				f := b.sees(name, breaks(b)...)
				if f.Level != c.Level || f.Means != c.Means || f.Do != c.Do {
					t.Errorf("the finding is %+v", f)
				}
				for _, can := range b.last.Abilities {
					no := c.Level == Problem && slices.Contains(c.Abilities, can.Ability)
					if no && (can.Answer != "no" || !slices.Contains(can.Because, name)) {
						t.Errorf("%s: %s because of %q", can.Ability, can.Answer, can.Because)
					}
				}
			})
		}
	}
	for name := range machines {
		t.Errorf("no check has a case %s", name)
	}
}
