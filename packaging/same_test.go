package packaging_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Two checkouts of this commit, in folders of other names and under another umask,
// give the same packages.
func TestPackagesAreTheSameWhereverTheyAreBuilt(t *testing.T) {
	scratch(t, "git")
	one := build(t, "a", "022")
	two := build(t, "a-longer/name for it", "077")
	if len(one) != 4 || len(two) != 4 {
		t.Fatalf("%d and %d packages, want 4", len(one), len(two))
	}
	for name, digest := range one {
		if two[name] != digest {
			t.Errorf("%s is not the same", name)
		}
	}
}

// build clones the source and returns the digest of each package.
func build(t *testing.T, folder, umask string) map[string]string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), folder)
	command(t, patience, "git", "clone", "--quiet", "--shared", "..", dir)
	cmd := exec.Command("sh", "-c", "umask "+umask+" && git checkout --quiet HEAD -- . && go run ./packaging/build -arch "+architecture())
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "dist", "*"))
	if err != nil {
		t.Fatal(err)
	}
	digests := make(map[string]string)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(data)
		digests[filepath.Base(file)] = hex.EncodeToString(digest[:])
	}
	return digests
}
