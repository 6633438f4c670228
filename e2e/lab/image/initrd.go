package image

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// early are the modules without which no root file system is found, verified those
// that a verified one needs besides.
func early() []string    { return []string{"virtio_pci", "virtio_blk", "virtio_net"} }
func verified() []string { return append(early(), "dm-verity") }

// initrd writes two initial file systems: path for a plain root, path.verity for a
// verified one.
func initrd(path, root, version string) error {
	plain, err := initrdFiles(root, version, early())
	if err != nil {
		return err
	}
	large, err := initrdFiles(root, version, verified())
	if err != nil {
		return err
	}
	if err := withProgram(large, root, "usr/sbin/dmsetup"); err != nil {
		return err
	}
	return errors.Join(writeInitrd(path, plain), writeInitrd(path+".verity", large), writeSums(path+".sums", plain))
}

// writeSums lists files as sha256sum does.
func writeSums(path string, files map[string][]byte) error {
	var list strings.Builder
	for _, name := range sorted(files) {
		fmt.Fprintf(&list, "%x  /%s\n", sha256.Sum256(files[name]), name)
	}
	return os.WriteFile(path, []byte(list.String()), 0o644)
}

func initrdFiles(root, version string, modules []string) (map[string][]byte, error) {
	files := map[string][]byte{}
	var order []string
	for _, module := range modules {
		// One line, "insmod PATH", for each module that this one needs, itself last.
		out, err := output(nil, "chroot", root, "modprobe", "-S", version, "--show-depends", module)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(out)) {
			path, found := strings.CutPrefix(strings.TrimSpace(line), "insmod ")
			name := "modules/" + filepath.Base(path)
			if !found || files[name] != nil {
				continue
			}
			if files[name], err = os.ReadFile(filepath.Join(root, path)); err != nil {
				return nil, err
			}
			order = append(order, "/"+name)
		}
	}
	files["modules/order"] = []byte(strings.Join(order, "\n") + "\n")
	var err1, err2 error
	files["bin/busybox"], err1 = os.ReadFile(filepath.Join(root, "bin/busybox"))
	files["init"], err2 = recipe.ReadFile("guest/initrd/init")
	return files, errors.Join(err1, err2)
}

// withProgram adds a program with the libraries that it needs.
func withProgram(files map[string][]byte, root, program string) error {
	out, err := output(nil, "chroot", root, "ldd", "/"+program)
	if err != nil {
		return err
	}
	needed := []string{program}
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			needed = append(needed, strings.TrimPrefix(word, "/"))
		}
	}
	for _, path := range needed {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		files[path] = data
	}
	return nil
}

// writeInitrd writes a cpio archive of the "newc" kind, all of root's, executable,
// in the order of names; compressed, as the firmware reads and hashes it slowly.
func writeInitrd(path string, files map[string][]byte) error {
	var b bytes.Buffer
	entry := func(inode int, name string, mode int, data []byte) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		pad4(&b)
		b.Write(data)
		pad4(&b)
	}
	dirs := map[string][]byte{"dev": nil, "proc": nil, "sys": nil, "run": nil, "root": nil}
	for name := range files {
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			dirs[dir] = nil
		}
	}
	inode := 1
	for _, name := range sorted(dirs) {
		entry(inode, name, 0o40755, nil)
		inode++
	}
	for _, name := range sorted(files) {
		entry(inode, name, 0o100755, files[name])
		inode++
	}
	entry(0, "TRAILER!!!", 0, nil)
	packed, err := output(b.Bytes(), "zstd", "-q", "-19", "-c")
	return errors.Join(err, os.WriteFile(path, packed, 0o644))
}

func pad4(b *bytes.Buffer) { b.Write(make([]byte, (4-b.Len()%4)%4)) }
