package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

// stream frames commands and responses over a device file or a socket.
// Not safe for concurrent use.
type stream struct {
	rw     io.ReadWriteCloser
	broken error // once framing is lost, every later answer would be the wrong one
}

// dial opens a character device, or the socket after "unix:" or "swtpm:".
func dial(path string) (*stream, error) {
	if scheme, name, _ := strings.Cut(path, ":"); scheme == "unix" || scheme == "swtpm" {
		conn, err := net.Dial("unix", name)
		if err != nil {
			return nil, Classify(ErrAbsent, "is the TPM emulator running?", err)
		}
		return &stream{rw: conn}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, Classify(ErrAbsent, "this machine shows no TPM: look for it in the firmware setup, and for the kernel's tpm driver", err)
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return nil, Classify(ErrAbsent, "name a TPM device such as /dev/tpmrm0", fmt.Errorf("%s is no character device", path))
	}
	// Blocking on purpose: in its non-blocking mode the driver answers a read that
	// comes too early with zero bytes.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	return &stream{rw: os.NewFile(uintptr(fd), path)}, nil
}

func openError(path string, err error) error {
	err = &os.PathError{Op: "open", Path: path, Err: err}
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return Classify(ErrAbsent, "add the user to the group that owns the device, usually tss", err)
	case errors.Is(err, unix.EBUSY):
		return Classify(ErrBusy, "another program holds the raw device; use /dev/tpmrm0", err)
	}
	return Classify(ErrAbsent, "", err)
}

// Send writes one command and reads its response.
func (s *stream) Send(command []byte) ([]byte, error) {
	if s.broken != nil {
		return nil, s.broken
	}
	response, err := s.exchange(command)
	if err != nil {
		s.broken = Classify(ErrAbsent, "the connection to the TPM is lost; the next call opens it again", err)
		return nil, s.broken
	}
	return response, nil
}

func (s *stream) exchange(command []byte) ([]byte, error) {
	if _, err := s.rw.Write(command); err != nil {
		return nil, fmt.Errorf("write TPM command: %w", err)
	}
	// A device gives its whole answer to one read, a socket in any pieces.
	buf := make([]byte, maxResponse)
	n, err := io.ReadAtLeast(s.rw, buf, headerSize)
	if err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	size := binary.BigEndian.Uint32(buf[2:6])
	if size < headerSize || size > maxResponse || uint32(n) > size {
		return nil, fmt.Errorf("read TPM response: %w: header says %d bytes, %d arrived", ErrDamaged, size, n)
	}
	if _, err := io.ReadFull(s.rw, buf[n:size]); err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	return buf[:size], nil
}

func (s *stream) Close() error { return s.rw.Close() }

var _ transport.TPMCloser = (*stream)(nil)
