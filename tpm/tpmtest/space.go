package tpmtest

import (
	"encoding/binary"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// space is what one client has in the chip. Objects get virtual handles from
// 0x80ffffff down; sessions keep theirs, for their handles enter into HMACs.
type space struct {
	m        *mux
	objects  [spaceSlots]object
	sessions []session
	parked   []uint32 // sessions that the client itself saved; the chip still keeps a slot for them
}

type object struct {
	handle  uint32 // in the chip, if it is there
	context []byte // TPMS_CONTEXT, if it is not
	used    bool
}

type session struct {
	handle  uint32
	context []byte // nil while it is in the chip
}

const (
	spaceSlots    = 3          // as in the kernel, for objects and for sessions
	firstVirtual  = 0x80ffffff // of the first slot; the next ones lie below
	typeMask      = 0xff000000
	typeHMAC      = 0x02000000 // sessions, loaded
	typePolicy    = 0x03000000 // sessions, saved; also the type of a policy session's handle
	typeTransient = 0x80000000
)

func newSpace(m *mux) *space { return &space{m: m} }

// send carries out one command of the client.
func (s *space) send(command []byte) ([]byte, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if err := s.enter(); err != nil {
		return nil, err
	}
	code := binary.BigEndian.Uint32(command[6:10])
	original := slices.Clone(command)
	if rc := s.mapCommand(command, code); rc != 0 {
		return failure(rc), nil
	}
	response, err := s.m.exchange(command)
	if err != nil || responseCode(response) != 0 {
		return response, err
	}
	return s.mapResponse(original, response, code)
}

// enter makes this space the one whose objects are in the chip.
func (s *space) enter() error {
	if s.m.active == s {
		return nil
	}
	if s.m.active != nil {
		if err := s.m.active.leave(); err != nil {
			return err
		}
	}
	s.m.active = s
	for i := range s.objects {
		o := &s.objects[i]
		if !o.used {
			continue
		}
		handle, ok, err := s.contextLoad(o.context)
		if err != nil {
			return err
		}
		*o = object{handle: handle, used: ok}
	}
	var kept []session
	for _, sess := range s.sessions {
		_, ok, err := s.contextLoad(sess.context)
		if err != nil {
			return err
		}
		if ok {
			kept = append(kept, session{handle: sess.handle})
		}
	}
	s.sessions = kept
	return nil
}

// leave saves everything and empties the chip.
func (s *space) leave() error {
	for i := range s.objects {
		o := &s.objects[i]
		if !o.used {
			continue
		}
		context, err := s.contextSave(o.handle)
		if err != nil {
			return err
		}
		if err := s.flush(o.handle); err != nil {
			return err
		}
		*o = object{context: context, used: context != nil}
	}
	var kept []session
	for _, sess := range s.sessions {
		// Saving a session takes it out of the chip. One that can't be saved ended
		// with the command that used it.
		context, err := s.contextSave(sess.handle)
		if err != nil {
			return err
		}
		if context != nil {
			kept = append(kept, session{handle: sess.handle, context: context})
		}
	}
	s.sessions = kept
	s.m.active = nil
	return nil
}

// end flushes all that the client left behind.
func (s *space) end() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if err := s.enter(); err != nil {
		return // the chip is gone
	}
	for _, o := range s.objects {
		if o.used {
			_ = s.flush(o.handle)
		}
	}
	for _, sess := range s.sessions {
		_ = s.flush(sess.handle)
	}
	for _, handle := range s.parked {
		_ = s.flush(handle)
	}
	s.m.active = nil
}

// contextSave is nil if the chip refuses.
func (s *space) contextSave(handle uint32) ([]byte, error) {
	response, err := s.m.exchange(handleCommand(tpm2.TPMCCContextSave, handle))
	if err != nil || responseCode(response) != 0 {
		return nil, err
	}
	return response[headerSize:], nil
}

func (s *space) contextLoad(context []byte) (handle uint32, ok bool, err error) {
	command := append(header(tpm2.TPMCCContextLoad, headerSize+len(context)), context...)
	response, err := s.m.exchange(command)
	if err != nil || responseCode(response) != 0 || len(response) < headerSize+4 {
		return 0, false, err
	}
	return binary.BigEndian.Uint32(response[headerSize:]), true, nil
}

func (s *space) flush(handle uint32) error {
	_, err := s.m.exchange(handleCommand(tpm2.TPMCCFlushContext, handle))
	return err
}

// header is that of a command without sessions.
func header(code tpm2.TPMCC, size int) []byte {
	h := binary.BigEndian.AppendUint32([]byte{0x80, 0x01}, uint32(size))
	return binary.BigEndian.AppendUint32(h, uint32(code))
}

func handleCommand(code tpm2.TPMCC, handle uint32) []byte {
	return binary.BigEndian.AppendUint32(header(code, headerSize+4), handle)
}

// failure is a response that has only a code.
func failure(rc tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, headerSize}, uint32(rc))
}

func responseCode(response []byte) uint32 { return binary.BigEndian.Uint32(response[6:10]) }
