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

// uki joins sections to the stub: a unified kernel image. Debian 12 has no ukify.
func uki(stub, out string, sections []section) error {
	image, err := pe.Open(stub)
	if err != nil {
		return fmt.Errorf("read systemd's stub: %w", err)
	}
	defer image.Close()
	var at uint32
	for _, s := range image.Sections {
		at = max(at, s.VirtualAddress+s.VirtualSize)
	}
	var args []string
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
