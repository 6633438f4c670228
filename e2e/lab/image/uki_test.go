package image

import (
	"debug/pe"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// An image that is built again must be the one that the cached disks have, and that the
// owner signed. The time of building is not in it.
func TestABootImageHasTheTimeOfItsStub(t *testing.T) {
	if _, err := exec.LookPath("objcopy"); err != nil {
		t.Skip("objcopy is missing: install binutils")
	}
	if _, err := exec.LookPath("grub-mkimage"); err != nil {
		t.Skip("grub-mkimage is missing: run tools/setup.sh e2e")
	}
	dir := t.TempDir()
	stub, file, image := filepath.Join(dir, "stub"), filepath.Join(dir, "cmdline"), filepath.Join(dir, "image")
	if err := run("grub-mkimage", "-O", "x86_64-efi", "-p", "/", "-o", stub); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("quiet"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := AddSection(stub, image, ".cmdline", file); err != nil {
		t.Fatal(err)
	}
	before, after := open(t, stub), open(t, image)
	if after.TimeDateStamp != before.TimeDateStamp {
		t.Errorf("the image is of %d, its stub of %d", after.TimeDateStamp, before.TimeDateStamp)
	}
	if s := after.Section(".cmdline"); s == nil || s.VirtualSize != 5 {
		t.Errorf("the section is %+v", s)
	}
}

func open(t *testing.T, path string) *pe.File {
	t.Helper()
	f, err := pe.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
