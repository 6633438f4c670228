package image

import (
	"os"
	"path/filepath"
	"strings"
)

// suite and packages are the Debian of the gateways.
const suite = "bookworm"

func packages() []string {
	return []string{
		"systemd", "systemd-sysv", "dbus", "udev", "kmod", "linux-image-cloud-amd64", "initramfs-tools-core", "busybox-static",
		"tpm2-tools", "libtss2-tcti-device0", "ca-certificates", "nftables", "iproute2", "openssh-server", "e2fsprogs",
		"dosfstools", "systemd-boot", "systemd-boot-efi", "cryptsetup-bin", "dmsetup", "procps",
	}
}

// hostSources is where a Debian host says where its packages come from.
const hostSources = "/etc/apt/sources.list.d/debian.sources"

// base is the package manager's part: a tar of Debian with nothing of ours. It is
// kept until its folder in the cache is removed, so that a run needs no network.
func (c *Cache) base() (string, error) {
	own, err := recipe.ReadFile("base.go")
	if err != nil {
		return "", err
	}
	dir, err := c.Get("base", own, func(dir string) error {
		args := []string{
			"--quiet", "--variant=minbase", "--mode=root", "--include=" + strings.Join(packages(), ","),
			"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
			`--aptopt=APT::Install-Recommends "false"`, `--aptopt=APT::Sandbox::User "root"`, suite, filepath.Join(dir, "base.tar"),
		}
		if _, err := os.Stat(hostSources); err == nil {
			args = append(args, hostSources)
		}
		return run("mmdebstrap", args...)
	})
	return filepath.Join(dir, "base.tar"), err
}
