package image

import (
	"debug/pe"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// section is what is added to systemd's stub.
type section struct{ name, file string }

// AddSection adds what is in file as a section of a unified kernel image.
func AddSection(uki, out, name, file string) error { return join(uki, out, []section{{name, file}}) }

// join adds sections to systemd's stub, which makes a unified kernel image of it, or to
// such an image. Debian 12 has no ukify. The time in it is the stub's: an image that is
// built again has the hash that a disk in the cache has, and the owner's signature.
func join(stub, out string, sections []section) error {
	image, err := pe.Open(stub)
	if err != nil {
		return fmt.Errorf("read the image to add to: %w", err)
	}
	defer image.Close()
	var at uint32
	for _, s := range image.Sections {
		at = max(at, s.VirtualAddress+s.VirtualSize)
	}
	args := []string{"--preserve-dates"}
	for _, s := range sections {
		info, err := os.Stat(s.file)
		if err != nil {
			return err
		}
		at = (at + 4095) &^ 4095
		args = append(args, "--add-section", s.name+"="+s.file, "--change-section-vma", fmt.Sprintf("%s=%#x", s.name, at))
		at += uint32(info.Size())
	}
	return run("objcopy", append(args, stub, out)...)
}

// The keys that Debian's OVMF ships for tests, with their password.
const (
	bootKey         = "/usr/share/ovmf/PkKek-1-snakeoil.key"
	bootCertificate = "/usr/share/ovmf/PkKek-1-snakeoil.pem"
	bootPassword    = "snakeoil"
)

// sign signs a boot application for Secure Boot, in place.
func sign(path string) error {
	key := filepath.Join(filepath.Dir(path), "boot.key")
	return errors.Join(
		run("openssl", "rsa", "-in", bootKey, "-passin", "pass:"+bootPassword, "-out", key),
		run("sbsign", "--key", key, "--cert", bootCertificate, "--output", path, path),
		os.Remove(key))
}
