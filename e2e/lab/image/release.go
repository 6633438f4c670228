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
	Deb     string // path of the product's package; empty: a Debian without it, whose root can be written
	Version string
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
	// SignedFiles gives each file of the root file system a signature by FileKey, as
	// IMA reads it.
	SignedFiles bool
}

// Built are the files of a built release.
type Built struct {
	Release
	Dir    string // of the files, named by all that went in
	Rootfs string // image of the root file system
	Loader string // the systemd-boot that starts it
	Early  string // what its initrd holds, as sha256sum writes it
}

// UKI is the release's boot image for a slot, which its command line names.
func (b Built) UKI(slot string) string { return filepath.Join(b.Dir, "gw-"+slot+".efi") }

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
	return Built{r, dir, filepath.Join(dir, "rootfs.img"), filepath.Join(dir, "loader.efi"), filepath.Join(system, "initrd.sums")}, err
}

// rootfs makes the image of the root file system. Two releases differ in the blocks
// of the files that differ.
func (c *Cache) rootfs(dir, system string, r Release) error {
	tree := filepath.Join(dir, "tree")
	links := "-al" // no file below is changed in place
	if r.SignedFiles {
		links = "-a"
	}
	if err := run("cp", links, filepath.Join(system, "root"), tree); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	files := map[string]string{"usr/lib/os-release": osRelease(r.Version)}
	if r.Deb != "" {
		files["etc/gatewarden/product.json"] = ProductFile(r.Version)
	}
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
	inode := "256"
	if r.SignedFiles {
		inode = "512" // a signature has room beside what it signs
		if err := c.signFiles(tree); err != nil {
			return err
		}
	}
	return run("mkfs.ext4", "-q", "-F", "-b", "4096", "-I", inode, "-m", "0", "-O", "^has_journal,^metadata_csum_seed", "-E", "hash_seed="+RootUUID+",lazy_itable_init=0",
		"-U", RootUUID, "-L", "root", "-d", tree, filepath.Join(dir, "rootfs.img"), fmt.Sprintf("%dM", fileSystem))
}

// RootUUID is that of every root file system: two builds of one are equal.
const RootUUID = "6f0c1d5e-8d0a-4c5f-9a51-7b0e2f6b9c11"

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

// ProductFile is product.json of a gateway that was born with a version.
func ProductFile(version string) string {
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

// CommandLine is the kernel's in a slot.
func (r Release) CommandLine(slot string) string {
	mode := "ro"
	if r.Deb == "" {
		mode = "rw"
	}
	return strings.TrimSpace("root=PARTLABEL=slot-" + slot + " " + mode + " " + BaseCommandLine + " " + r.Words)
}

// boot makes the unified kernel image of each slot and takes the boot loader.
func (c *Cache) boot(dir, system string, r Release) error {
	osrel, kernel, loader := filepath.Join(dir, "osrel"), filepath.Join(dir, "kernel"), filepath.Join(dir, "loader.efi")
	steps := []func() error{
		func() error { return os.WriteFile(osrel, []byte(osRelease(r.Version)), 0o644) },
		func() error { return run("cp", filepath.Join(system, "kernel"), kernel) },
		func() error { return run("cp", filepath.Join(system, "efi/systemd-bootx64.efi"), loader) },
	}
	if r.OtherKernel {
		steps = append(steps, func() error { return run("truncate", "-s", "+8", kernel) })
	}
	if r.Signed {
		steps = append(steps, func() error { return sign(loader) })
	}
	for _, step := range append(steps, func() error { return bootImages(dir, system, r) }, func() error { return os.Remove(kernel) }) {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// bootImages makes the unified kernel images. They differ in their command lines.
func bootImages(dir, system string, r Release) error {
	initrd, verity := filepath.Join(system, "initrd"), ""
	if r.Verity {
		words, err := hashTree(filepath.Join(dir, "rootfs.img"))
		if err != nil {
			return err
		}
		initrd, verity = initrd+".verity", " "+words
	}
	for _, slot := range []string{"a", "b"} {
		cmdline, image := filepath.Join(dir, "cmdline-"+slot), filepath.Join(dir, "gw-"+slot+".efi")
		if err := os.WriteFile(cmdline, []byte(r.CommandLine(slot)+verity), 0o644); err != nil {
			return err
		}
		err := join(filepath.Join(system, "efi/linuxx64.efi.stub"), image, []section{
			{".osrel", filepath.Join(dir, "osrel")}, {".cmdline", cmdline}, {".initrd", initrd}, {".linux", filepath.Join(dir, "kernel")}})
		if err == nil && r.Signed {
			err = sign(image)
		}
		if err != nil {
			return err
		}
	}
	return nil
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
