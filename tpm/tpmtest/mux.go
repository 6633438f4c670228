package tpmtest

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// mux lets many clients use one chip, as the kernel's /dev/tpmrm0 does (Linux,
// drivers/char/tpm/tpm2-space.c): each connection is a space with handles of its
// own, swapped in and out of the chip, and flushed when it closes.
type mux struct {
	mu         sync.Mutex // one command with its swapping at a time
	chip       net.Conn
	attributes map[uint32]uint32 // TPMA_CC by command code
	active     *space            // whose objects are in the chip; nil: nobody's

	listener net.Listener
	clients  sync.WaitGroup
	connMu   sync.Mutex
	conns    map[net.Conn]struct{} // nil once closed
}

const (
	headerSize = 10
	maxMessage = 4096 // bytes of one command or response
)

func newMux(chip net.Conn) (*mux, error) {
	m := &mux{chip: chip, conns: make(map[net.Conn]struct{})}
	return m, m.readAttributes()
}

// readAttributes learns how many handles each command takes and gives.
func (m *mux) readAttributes() error {
	m.attributes = make(map[uint32]uint32)
	for next := uint32(0x11f); ; {
		rsp, err := tpm2.GetCapability{
			Capability: tpm2.TPMCapCommands, Property: next, PropertyCount: 256,
		}.Execute(m)
		if err != nil {
			return fmt.Errorf("read command table: %w", err)
		}
		list, err := rsp.CapabilityData.Data.Command()
		if err != nil {
			return fmt.Errorf("read command table: %w", err)
		}
		for _, cca := range list.CommandAttributes {
			raw := binary.BigEndian.Uint32(tpm2.Marshal(cca))
			m.attributes[raw&0xffff] = raw
			next = raw&0xffff + 1
		}
		if !rsp.MoreData || len(list.CommandAttributes) == 0 {
			return nil
		}
	}
}

// Send sends a command of the machine itself, outside any space; for commands that
// need no handle of an object.
func (m *mux) Send(command []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exchange(command)
}

// exchange is one command to the chip; the caller holds mu.
func (m *mux) exchange(command []byte) ([]byte, error) {
	if _, err := m.chip.Write(command); err != nil {
		return nil, fmt.Errorf("write to swtpm: %w", err)
	}
	response, err := readMessage(m.chip)
	if err != nil {
		return nil, fmt.Errorf("read from swtpm: %w", err)
	}
	return response, nil
}

// readMessage reads one command or response by the size in its header.
func readMessage(r io.Reader) ([]byte, error) {
	message := make([]byte, headerSize, maxMessage)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(message[2:6])
	if size < headerSize || size > maxMessage {
		return nil, fmt.Errorf("message of %d bytes", size)
	}
	message = message[:size]
	_, err := io.ReadFull(r, message[headerSize:])
	return message, err
}

// listen serves clients at a path until close.
func (m *mux) listen(path string) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	m.listener = listener
	m.clients.Add(1)
	go func() {
		defer m.clients.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			m.accept(conn)
		}
	}()
	return nil
}

func (m *mux) accept(conn net.Conn) {
	m.connMu.Lock()
	defer m.connMu.Unlock()
	if m.conns == nil {
		conn.Close()
		return
	}
	m.conns[conn] = struct{}{}
	m.clients.Add(1)
	go m.client(conn)
}

// client serves one connection. A command that has arrived whole is carried out
// even if its sender is killed meanwhile; one that was cut off is not.
func (m *mux) client(conn net.Conn) {
	defer m.clients.Done()
	s := newSpace(m)
	defer func() {
		conn.Close()
		s.end()
		m.connMu.Lock()
		delete(m.conns, conn)
		m.connMu.Unlock()
	}()
	for {
		command, err := readMessage(conn)
		if err != nil {
			return
		}
		response, err := s.send(command)
		if err != nil {
			return
		}
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

// close ends all connections and waits for their goroutines.
func (m *mux) close() {
	if m.listener != nil {
		m.listener.Close()
	}
	m.chip.Close()
	m.connMu.Lock()
	for conn := range m.conns {
		conn.Close()
	}
	m.conns = nil
	m.connMu.Unlock()
	m.clients.Wait()
}

var _ transport.TPM = (*mux)(nil)
