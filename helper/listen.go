package helper

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// maxSocketPath is what sockaddr_un holds on Linux, without the final zero, in bytes.
const maxSocketPath = 107

// Activated returns the socket that systemd passed, or nil if it passed none.
func Activated() (*net.UnixListener, error) {
	list, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take socket from systemd: %w", err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	l, ok := list[0].(*net.UnixListener)
	if !ok || len(list) > 1 {
		return nil, fmt.Errorf("systemd passed %d sockets, not one Unix stream socket", len(list))
	}
	return l, nil
}

// Listen makes the socket at path, which only uid and root may open. A socket that
// nobody serves any more is replaced.
func Listen(path string, uid int) (*net.UnixListener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen: socket path is longer than %d bytes: %s", maxSocketPath, path)
	}
	if err := clear(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	// Until here others may connect at most, and SO_PEERCRED turns them away.
	err = errors.Join(os.Chmod(path, 0o600), os.Lchown(path, uid, -1))
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("hand socket to user %d: %w", uid, err)
	}
	return l, nil
}

func clear(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen: %s is there and no socket", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("listen: another helper serves %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	return nil
}
