package helper

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gatewarden/gatewarden/internal/policy"
)

// readTrust reads a policy document from the helper's own trust folder. It is read
// again for each request, so that a withdrawn operator is withdrawn at once.
func readTrust[T any](s *server, name string, parse func([]byte) (*T, error)) (*T, error) {
	path := filepath.Join(s.Trust, name)
	for _, p := range []string{s.Trust, path} {
		if err := checkOwner(p); err != nil {
			return nil, fmt.Errorf("check trust folder: %w", err)
		}
	}
	data, err := s.FS.ReadFile(path, policy.MaxDocument)
	if err != nil {
		return nil, fmt.Errorf("read trust folder: %w", err)
	}
	return parse(data)
}

// checkOwner refuses what anybody but root, or the user that we run as, could
// have written. A link is nobody's document.
func checkOwner(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !info.IsDir() && !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither folder nor regular file", path)
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d; it must be root's", path, stat.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s may be written by others (mode %04o); run chmod go-w", path, info.Mode().Perm())
	}
	return nil
}
