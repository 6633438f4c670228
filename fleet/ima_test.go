package fleet

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFolderSaysWhichFilesMayRun(t *testing.T) {
	if r, err := readIMA(""); r != nil || err != nil {
		t.Errorf("no folder: %v, %v", r, err)
	}
	folder := t.TempDir()
	if _, err := readIMA(folder); err == nil || !strings.Contains(err.Error(), "hint: it takes files.list") {
		t.Errorf("an empty folder: %v", err)
	}
	list := fmt.Sprintf("%x  /bin/true\n", sha256.Sum256(nil))
	if err := os.WriteFile(filepath.Join(folder, "files.list"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := readIMA(folder); r == nil || err != nil {
		t.Errorf("a list: %v, %v", r, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "keys.pem"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readIMA(folder); err == nil {
		t.Error("keys that can't be read are left out")
	}
}
