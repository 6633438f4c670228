package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Where on the EFI system partition the firmware finds the boot loader, and GRUB what
// it has to do.
const (
	Loader     = "EFI/BOOT/BOOTX64.EFI"
	GrubConfig = "EFI/BOOT/grub.cfg"
)

// Grub makes the files of an EFI system partition on which GRUB starts a release's
// kernel by its `linux` command: past the kernel's EFI stub, so that no event log
// reaches the kernel.
func (c *Cache) Grub(r Release) (map[string]string, error) {
	system, err := c.system(r.Deb)
	if err != nil {
		return nil, err
	}
	line := r.CommandLine("a")
	files, err := c.grub("search --no-floppy --set=root --label ESP\nlinux /kernel " + line + "\ninitrd /initrd\nboot\n")
	if err != nil {
		return nil, err
	}
	files["kernel"], files["initrd"] = filepath.Join(system, "kernel"), filepath.Join(system, "initrd")
	return files, nil
}

// GrubChain makes the files of one on which GRUB starts a release's boot image, with a
// command line that stands in GRUB's configuration. The kernel gets the event log.
func (c *Cache) GrubChain(b Built) (map[string]string, error) {
	files, err := c.grub("chainloader /EFI/Linux/gw-a.efi " + b.CommandLine("a") + "\nboot\n")
	if err != nil {
		return nil, err
	}
	files["EFI/Linux/gw-a.efi"] = b.UKI("a")
	return files, nil
}

// grub makes GRUB and its configuration.
func (c *Cache) grub(text string) (map[string]string, error) {
	modules := strings.Fields("part_gpt fat normal linux chain search search_label tpm")
	dir, err := c.Get("grub", append(modules, text), func(dir string) error {
		args := append([]string{"-O", "x86_64-efi", "-o", filepath.Join(dir, "grub.efi"), "-p", "/" + filepath.Dir(GrubConfig)}, modules...)
		return errors.Join(os.WriteFile(filepath.Join(dir, "grub.cfg"), []byte(text), 0o644), run("grub-mkimage", args...))
	})
	return map[string]string{Loader: filepath.Join(dir, "grub.efi"), GrubConfig: filepath.Join(dir, "grub.cfg")}, err
}
