package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

const (
	tpmHeader  = 10   // bytes of a TPM command's or response's header
	tpmLargest = 4096 // bytes of a command or response
)

// Tap stands before a TPM's socket and lists the commands that pass, of all
// connections. Safe for concurrent use.
type Tap struct {
	Socket string

	listener net.Listener
	chip     string
	mu       sync.Mutex
	codes    []tpm2.TPMCC
}

// NewTap listens at socket and carries each connection to the socket chip.
func NewTap(socket, chip string) (*Tap, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("tap TPM: %w", err)
	}
	t := &Tap{Socket: socket, listener: l, chip: chip}
	go t.serve()
	return t, nil
}

// Close ends the listener; open connections end with their clients.
func (t *Tap) Close() error { return t.listener.Close() }

// Take returns the commands since the last Take, in order.
func (t *Tap) Take() []tpm2.TPMCC {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.codes
	t.codes = nil
	return taken
}

// Seen says whether a command has passed since the last Take.
func (t *Tap) Seen(code tpm2.TPMCC) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.codes, code)
}

func (t *Tap) serve() {
	for {
		client, err := t.listener.Accept()
		if err != nil {
			return
		}
		go t.carry(client)
	}
}

// carry ends when either side does; an error is the other side's to notice.
func (t *Tap) carry(client net.Conn) {
	defer client.Close()
	chip, err := net.Dial("unix", t.chip)
	if err != nil {
		return
	}
	defer chip.Close()
	for {
		command, err := readFrame(client)
		if err != nil {
			return
		}
		t.mu.Lock()
		t.codes = append(t.codes, tpm2.TPMCC(binary.BigEndian.Uint32(command[6:10])))
		t.mu.Unlock()
		if _, err := chip.Write(command); err != nil {
			return
		}
		response, err := readFrame(chip)
		if err != nil {
			return
		}
		if _, err := client.Write(response); err != nil {
			return
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	frame := make([]byte, tpmHeader)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(frame[2:6])
	if size < tpmHeader || size > tpmLargest {
		return nil, errors.New("no TPM frame")
	}
	frame = append(frame, make([]byte, size-tpmHeader)...)
	_, err := io.ReadFull(r, frame[tpmHeader:])
	return frame, err
}
