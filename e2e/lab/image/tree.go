package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// dropped is what a gateway does not need: bytes of a slot cost the emulated
// machine time. The kernel goes into the boot image.
func dropped() []string {
	return []string{
		"boot", "usr/share/perl", "usr/lib/x86_64-linux-gnu/perl", "usr/lib/x86_64-linux-gnu/gconv", "usr/share/zoneinfo",
		"usr/share/bash-completion", "usr/share/i18n", "var/cache", "var/lib/apt", "usr/lib/systemd/boot",
	}
}

// modules is what is kept of the kernel's modules.
func modules() []string {
	return []string{
		"arch/x86/crypto", "crypto", "lib", "fs/fat", "fs/nls", "fs/efivarfs", "fs/fuse", "fs/overlayfs", "fs/configfs", "drivers/virtio",
		"drivers/block/virtio_blk.ko", "drivers/net/virtio_net.ko", "drivers/net/net_failover.ko", "net/core/failover.ko",
		"drivers/char/hw_random", "drivers/char/tpm", "drivers/md", "drivers/dax", "drivers/watchdog/softdog.ko", "net/netfilter", "drivers/firmware",
		"drivers/char/virtio_console.ko", "net/ipv4/netfilter", "net/ipv6/netfilter",
	}
}

// masked units are of no use to a gateway in the lab, and cost it seconds.
func masked() []string {
	return strings.Fields(`systemd-binfmt.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount
		sys-kernel-tracing.mount sys-fs-fuse-connections.mount modprobe@configfs.service modprobe@drm.service modprobe@fuse.service
		modprobe@efi_pstore.service systemd-pstore.service systemd-hwdb-update.service kmod-static-nodes.service systemd-tmpfiles-clean.timer
		getty-static.service getty@tty1.service e2scrub_all.timer e2scrub_reap.service fstrim.timer
		systemd-update-utmp.service systemd-update-utmp-runlevel.service nftables.service systemd-boot-system-token.service
		apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer systemd-networkd.service systemd-remount-fs.service
		systemd-random-seed.service systemd-machine-id-commit.service systemd-boot-update.service`)
}

// system is Debian as a gateway has it, with the product's package installed if deb
// names it: a folder with the root file system in root, the kernel in kernel, what it
// boots with in efi.
func (c *Cache) system(deb string) (string, error) {
	base, err := c.base()
	if err != nil {
		return "", err
	}
	own, err := source()
	if err != nil {
		return "", err
	}
	product := "none"
	if deb != "" {
		if product, err = Sum(deb); err != nil {
			return "", err
		}
	}
	return c.Get("system", []string{filepath.Dir(base), own, product}, func(dir string) error {
		root := filepath.Join(dir, "root")
		return errors.Join(os.MkdirAll(root, 0o755), run("tar", "-C", root, "-xf", base), c.furnish(dir, root, deb))
	})
}

func (c *Cache) furnish(dir, root, deb string) error {
	kernels, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("found %d kernels in Debian's tree, want one: %w", len(kernels), errors.Join(err, fs.ErrNotExist))
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	for _, step := range []func() error{
		func() error { return run("cp", kernels[0], filepath.Join(dir, "kernel")) },
		func() error {
			return run("cp", "-r", filepath.Join(root, "usr/lib/systemd/boot/efi"), filepath.Join(dir, "efi"))
		},
		func() error { return initrd(filepath.Join(dir, "initrd"), root, version) },
		func() error { return slim(root, version) },
		func() error { return c.product(root, deb) },
		func() error { return c.guest(root) },
		func() error { return withoutProduct(root, deb) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// slim takes out what a gateway does not need.
func slim(root, version string) error {
	all := filepath.Join(root, "usr/lib/modules", version)
	var keep []string
	for _, path := range modules() {
		keep = append(keep, filepath.Join("kernel", path))
	}
	slimmed := all + ".slim"
	if err := os.MkdirAll(slimmed, 0o755); err != nil {
		return err
	}
	args := []string{"-c", `cd "$1" && to=$2 && shift 2 && cp -a --parents modules.order modules.builtin modules.builtin.modinfo "$@" "$to"`, "sh", all, slimmed}
	if err := run("sh", append(args, keep...)...); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(all), os.Rename(slimmed, all), run("chroot", root, "depmod", version)); err != nil {
		return err
	}
	var errs []error
	for _, path := range dropped() {
		errs = append(errs, os.RemoveAll(filepath.Join(root, path)))
	}
	return errors.Join(errs...)
}

// product installs the package as a user does, but for the network.
func (c *Cache) product(root, deb string) error {
	if deb == "" {
		return nil
	}
	inside := filepath.Join(root, "tmp/gatewarden.deb")
	if err := run("cp", deb, inside); err != nil {
		return err
	}
	return errors.Join(run("chroot", root, "dpkg", "-i", "/tmp/gatewarden.deb"), os.Remove(inside))
}

// guest adds what makes the tree a machine of the lab: the files below guest/root,
// the keys by which ssh gets in, and the choice of units.
func (c *Cache) guest(root string) error {
	key, host, err := c.keys()
	if err != nil {
		return err
	}
	authorized := filepath.Join(root, "root/.ssh/authorized_keys")
	files, err := fs.Sub(recipe, "guest/root")
	if err != nil {
		return err
	}
	for _, path := range []string{"etc/fstab", "etc/machine-id", "etc/hostname", "etc/gatewarden/helper.env"} {
		if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
			return err
		}
	}
	if err := os.CopyFS(root, files); err != nil {
		return err
	}
	for _, dir := range []string{"efi", "var/cache", "boot", "etc/gatewarden/trust", "var/lib/lab/trust"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		os.MkdirAll(filepath.Dir(authorized), 0o700),
		run("cp", key+".pub", authorized),
		run("sh", "-c", `mkdir -p "$1"; cp -n "$1/agent.toml" "$2" 2>/dev/null || : >"$2"; touch "$1/agent.toml"`, "sh",
			filepath.Join(root, "etc/gatewarden"), filepath.Join(root, "var/lib/lab/agent.toml")),
		run("sh", "-c", `rm -f "$1"/ssh_host_*; install -m 600 "$2" "$1/ssh_host_ed25519_key"`, "sh", filepath.Join(root, "etc/ssh"), host),
		run("chroot", root, "usermod", "-p", "", "root"),
		run("chroot", append([]string{root, "systemctl", "-q", "mask"}, masked()...)...),
		run("chroot", root, "systemctl", "-q", "enable", "ssh", "lab-network", "lab-report", "lab-off"),
	)
}

// withoutProduct takes the product's files out of the guest's if it has no package.
func withoutProduct(root, deb string) error {
	if deb != "" {
		return nil
	}
	return errors.Join(os.RemoveAll(filepath.Join(root, "etc/gatewarden")), run("sed", "-i", "/gatewarden/d", filepath.Join(root, "etc/fstab")))
}

// keys returns the private key that opens the machines of this cache and the one
// that they show.
func (c *Cache) keys() (key, host string, err error) {
	dir, err := c.Get("keys", 1, func(dir string) error {
		return errors.Join(
			run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", filepath.Join(dir, "key")),
			run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", filepath.Join(dir, "host")))
	})
	return filepath.Join(dir, "key"), filepath.Join(dir, "host"), err
}

// Key is the private key that opens the machines.
func (c *Cache) Key() (string, error) {
	key, _, err := c.keys()
	return key, err
}
