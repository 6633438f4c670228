package image

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// recipe is the source of this package: whoever changes it gets new images.
//
//go:embed *.go all:guest
var recipe embed.FS

// kept is how many results of one stage stay in the cache.
const kept = 6

// Cache keeps what was built in one folder. It is not safe for concurrent use; the
// lab's lock sees to that.
type Cache struct{ Dir string }

// Open makes the cache's folder: $GATEWARDEN_LAB, else one in the user's cache.
func Open() (*Cache, error) {
	dir := os.Getenv("GATEWARDEN_LAB")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a folder for the lab's images (or name one in GATEWARDEN_LAB): %w", err)
		}
		dir = filepath.Join(user, "gatewarden-lab")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &Cache{dir}, os.MkdirAll(dir, 0o755)
}

// Get returns the folder of a stage's result, which build makes if no earlier run
// did. parts are all that the result depends on, as JSON writes it.
func (c *Cache) Get(stage string, parts any, build func(dir string) error) (string, error) {
	key, err := keyOf(parts)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(c.Dir, stage+"-"+key)
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err == nil {
		return dir, nil
	}
	draft := dir + ".draft"
	if err := errors.Join(os.RemoveAll(draft), os.MkdirAll(draft, 0o755)); err != nil {
		return "", err
	}
	if err := build(draft); err != nil {
		return "", fmt.Errorf("build %s: %w", stage, err)
	}
	if err := os.Rename(draft, dir); err != nil {
		return "", err
	}
	return dir, c.prune(stage, dir)
}

// prune removes the results of a stage that were not used for longest, and drafts
// that a run left behind.
func (c *Cache) prune(stage, keep string) error {
	found, err := filepath.Glob(filepath.Join(c.Dir, stage+"-*"))
	if err != nil {
		return err
	}
	used := map[string]time.Time{}
	for _, dir := range found {
		if info, err := os.Stat(dir); err == nil && !strings.HasSuffix(dir, ".draft") {
			used[dir] = info.ModTime()
		}
	}
	sort.Slice(found, func(i, j int) bool { return used[found[i]].After(used[found[j]]) })
	var errs []error
	for i, dir := range found {
		if dir != keep && (i >= kept || used[dir].IsZero()) {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

func keyOf(parts any) (string, error) {
	raw, err := json.Marshal(parts)
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8]), err
}

// source is the hash of this package's source.
func source() (string, error) {
	hash := sha256.New()
	err := fs.WalkDir(recipe, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := recipe.ReadFile(path)
		fmt.Fprintln(hash, path, len(data))
		hash.Write(data)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil)), err
}

// Sum is the hash of a file's contents.
func Sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return hex.EncodeToString(hash.Sum(nil)), err
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
