package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Grub makes the files of an EFI system partition on which GRUB starts a release's
// kernel by its `linux` command: past the kernel's EFI stub, so that no event log
// reaches the kernel.
func (c *Cache) Grub(r Release) (map[string]string, error) {
	system, err := c.system(r.Deb)
	if err != nil {
		return nil, err
	}
	dir, err := c.Get("grub", []string{filepath.Base(system), r.CommandLine("a")}, func(dir string) error {
		conf := filepath.Join(dir, "grub.cfg")
		text := "search --no-floppy --set=root --label ESP\nlinux /kernel " + r.CommandLine("a") + "\ninitrd /initrd\nboot\n"
		modules := strings.Fields("part_gpt fat normal linux search search_label tpm")
		args := append([]string{"-O", "x86_64-efi", "-o", filepath.Join(dir, "grub.efi"), "-p", "/", "-c", conf}, modules...)
		return errors.Join(os.WriteFile(conf, []byte(text), 0o644), run("grub-mkimage", args...))
	})
	return map[string]string{
		"EFI/BOOT/BOOTX64.EFI": filepath.Join(dir, "grub.efi"),
		"kernel":               filepath.Join(system, "kernel"), "initrd": filepath.Join(system, "initrd"),
	}, err
}
