package image

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Tools are the programs that the lab needs, with the Debian package of each.
func Tools() map[string]string {
	return map[string]string{
		"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "swtpm": "swtpm", "swtpm_setup": "swtpm-tools",
		"mmdebstrap": "mmdebstrap", "sfdisk": "fdisk", "mkfs.vfat": "dosfstools", "mcopy": "mtools", "mkfs.ext4": "e2fsprogs",
		"debugfs": "e2fsprogs", "objcopy": "binutils", "sbsign": "sbsigntool", "veritysetup": "cryptsetup-bin",
		"socat": "socat", "ssh": "openssh-client", "tar": "tar", "chroot": "coreutils", "zstd": "zstd", "openssl": "openssl",
		"grub-mkimage": "grub-common", "evmctl": "ima-evm-utils",
	}
}

// Files are what the lab needs besides programs, with the Debian package of each.
func Files() map[string]string {
	return map[string]string{
		"/usr/share/OVMF/OVMF_CODE_4M.fd": "ovmf", "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd": "ovmf",
		"/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd": "ovmf", "/usr/lib/grub/x86_64-efi/linux.mod": "grub-efi-amd64-bin",
	}
}

// run runs a program with low priority. Its error carries what the program said.
func run(name string, args ...string) error {
	_, err := output(nil, name, args...)
	return err
}

func output(stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.Command("nice", append([]string{name}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C", "E2FSPROGS_FAKE_TIME="+epoch)
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String() + said.String())
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text[max(0, len(text)-2000):])
	}
	return out.Bytes(), nil
}

// epoch is the time that file systems are made at, in seconds.
const epoch = "1767225600"
