package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// What all gateways of the lab are.
const (
	Product  = "gwlab"
	Channel  = "stable"
	Hardware = "lab-gateway"
	// slotSize and dataSize are those of the partitions, in MiB.
	slotSize, dataSize, espSize = 224, 128, 128
	// fileSystem is what of a slot the root file system takes; a hash tree follows.
	fileSystem = 216
)

// BaseCommandLine is what every kernel gets besides the name of its slot. A kernel
// that panics reboots: the boot loader counts that.
const BaseCommandLine = "console=ttyS0 panic=5 quiet net.ifnames=0 systemd.show_status=0"

// Release is one version of what a gateway runs.
type Release struct {
	Deb     string // path of the product's package
	Version string
	Slot    string // "a" or "b": its command line names it
	// Words are added to the command line.
	Words string
	// Files are contents by path, below the root, instead of the tree's.
	Files map[string]string
	// OtherKernel appends a byte to the kernel: it boots as before, and is another.
	OtherKernel bool
	// Verity puts the root hash into the command line: the kernel verifies all it reads.
	Verity bool
	// Signed signs what the firmware starts, for Secure Boot.
	Signed bool
}

// Built are the files of a built release.
type Built struct {
	Release
	Rootfs string // image of the root file system
	UKI    string
	Loader string // the systemd-boot that starts it
}

// Build makes a release's images, or finds them in the cache.
func (c *Cache) Build(r Release) (Built, error) {
	system, err := c.system(r.Deb)
	if err != nil {
		return Built{}, err
	}
	own := r
	own.Deb = filepath.Base(system)
	dir, err := c.Get("release", own, func(dir string) error {
		if err := c.rootfs(dir, system, r); err != nil {
			return err
		}
		return c.boot(dir, system, r)
	})
	return Built{r, filepath.Join(dir, "rootfs.img"), filepath.Join(dir, "gw.efi"), filepath.Join(dir, "loader.efi")}, err
}

// rootfs makes the image of the root file system. Two releases differ in the blocks
// of the files that differ.
func (c *Cache) rootfs(dir, system string, r Release) error {
	tree := filepath.Join(dir, "tree")
	if err := run("cp", "-al", filepath.Join(system, "root"), tree); err != nil { // links: no file below is changed in place
		return err
	}
	defer os.RemoveAll(tree)
	files := map[string]string{"etc/gatewarden/product.json": productJSON(r.Version), "usr/lib/os-release": osRelease(r.Version)}
	for path, content := range r.Files {
		files[path] = content
	}
	for path, content := range files {
		if err := replace(filepath.Join(tree, path), content); err != nil {
			return err
		}
	}
	if err := run("sh", "-c", `find "$1" -newermt @"$2" -exec touch -h -d @"$2" {} +`, "sh", tree, epoch); err != nil {
		return err
	}
	image := filepath.Join(dir, "rootfs.img")
	err := run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal,^metadata_csum_seed", "-E", "hash_seed="+fixedUUID+",lazy_itable_init=0",
		"-U", fixedUUID, "-L", "root", "-d", tree, image, fmt.Sprintf("%dM", fileSystem))
	return err
}

// fixedUUID makes two builds of a file system equal.
const fixedUUID = "6f0c1d5e-8d0a-4c5f-9a51-7b0e2f6b9c11"

// replace writes a file of its own: the old one is shared with the cache.
func replace(path, content string) error {
	mode := os.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	if strings.HasPrefix(content, "#!") {
		mode = 0o755
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode))
}

func productJSON(version string) string {
	rootfs := map[string]string{"a": "/dev/disk/by-partlabel/slot-a", "b": "/dev/disk/by-partlabel/slot-b"}
	raw, _ := json.Marshal(map[string]any{ // of strings and numbers: can't fail
		"v": 1, "product": Product, "channel": Channel, "hardware": Hardware, "version": version, "epoch": 1,
		"esp": "/efi", "devices": map[string]any{"rootfs": rootfs},
	})
	return string(raw)
}

func osRelease(version string) string {
	return fmt.Sprintf("ID=%s\nNAME=%s\nVERSION_ID=%s\n", Product, Product, version)
}

// CommandLine is the kernel's.
func (r Release) CommandLine() string {
	return strings.TrimSpace("root=PARTLABEL=slot-" + r.Slot + " ro " + BaseCommandLine + " " + r.Words)
}

// boot makes the unified kernel image and takes the boot loader.
func (c *Cache) boot(dir, system string, r Release) error {
	initrd, line := filepath.Join(system, "initrd"), r.CommandLine()
	if r.Verity {
		initrd += ".verity"
		words, err := hashTree(filepath.Join(dir, "rootfs.img"))
		if err != nil {
			return err
		}
		line += " " + words
	}
	osrel, cmdline, kernel := filepath.Join(dir, "osrel"), filepath.Join(dir, "cmdline"), filepath.Join(dir, "kernel")
	image, loader := filepath.Join(dir, "gw.efi"), filepath.Join(dir, "loader.efi")
	err := errors.Join(
		os.WriteFile(osrel, []byte(osRelease(r.Version)), 0o644), os.WriteFile(cmdline, []byte(line), 0o644),
		run("cp", filepath.Join(system, "kernel"), kernel),
		run("cp", filepath.Join(system, "efi/systemd-bootx64.efi"), loader))
	if err != nil {
		return err
	}
	defer os.Remove(kernel)
	if r.OtherKernel {
		if err := run("truncate", "-s", "+8", kernel); err != nil {
			return err
		}
	}
	err = uki(filepath.Join(system, "efi/linuxx64.efi.stub"), image, []section{
		{".osrel", osrel}, {".cmdline", cmdline}, {".initrd", initrd}, {".linux", kernel}})
	if err == nil && r.Signed {
		err = errors.Join(sign(image), sign(loader))
	}
	return err
}

// hashTree appends dm-verity's hash tree to an image and returns what the command
// line says of it.
func hashTree(image string) (string, error) {
	blocks := fileSystem << 20 / 4096
	out, err := output(nil, "veritysetup", "format", image, image, "--no-superblock", "--data-blocks", fmt.Sprint(blocks),
		"--hash-offset", fmt.Sprint(fileSystem<<20), "--salt", strings.Repeat("00", 32))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if name, hash, ok := strings.Cut(line, ":"); ok && name == "Root hash" {
			return fmt.Sprintf("verity=%d:%s:%s", blocks, strings.TrimSpace(hash), strings.Repeat("00", 32)), nil
		}
	}
	return "", fmt.Errorf("veritysetup told no root hash: %s", out)
}
