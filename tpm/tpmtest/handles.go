package tpmtest

import (
	"encoding/binary"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// mapCommand replaces the client's virtual handles by the chip's.
func (s *space) mapCommand(command []byte, code uint32) tpm2.TPMRC {
	for i := range s.m.handleCount(code) {
		at := headerSize + 4*i
		if len(command) < at+4 {
			return tpm2.TPMRCCommandSize
		}
		handle := binary.BigEndian.Uint32(command[at:])
		if handle&typeMask != typeTransient {
			continue
		}
		slot := int(int64(firstVirtual) - int64(handle))
		if slot < 0 || slot >= spaceSlots || !s.objects[slot].used {
			return tpm2.TPMRCReferenceH0 + tpm2.TPMRC(i)
		}
		binary.BigEndian.PutUint32(command[at:], s.objects[slot].handle)
	}
	return 0
}

// handleCount is TPMA_CC.cHandles (TPM 2.0 Part 2, 8.9). FlushContext names its
// handle as a parameter, which is in the same place.
func (m *mux) handleCount(code uint32) int {
	switch tpm2.TPMCC(code) {
	case tpm2.TPMCCFlushContext, tpm2.TPMCCContextSave:
		return 1
	}
	return int(m.attributes[code&0xffff] >> 25 & 7)
}

// givesHandle is TPMA_CC.rHandle.
func (m *mux) givesHandle(code uint32) bool { return m.attributes[code&0xffff]>>28&1 != 0 }

// mapResponse keeps account of what the command made or ended, and gives the client
// virtual handles.
func (s *space) mapResponse(command, response []byte, code uint32) ([]byte, error) {
	switch tpm2.TPMCC(code) {
	case tpm2.TPMCCFlushContext:
		s.flushed(binary.BigEndian.Uint32(command[headerSize:]))
		return response, nil
	case tpm2.TPMCCContextSave:
		s.saved(binary.BigEndian.Uint32(command[headerSize:]))
		return response, nil
	case tpm2.TPMCCGetCapability:
		return s.ownHandles(response), nil
	}
	if !s.m.givesHandle(code) || len(response) < headerSize+4 {
		return response, nil
	}
	handle := binary.BigEndian.Uint32(response[headerSize:])
	switch handle & typeMask {
	case typeTransient:
		return s.newObject(handle, response)
	case typeHMAC, typePolicy:
		return s.newSession(handle, response)
	}
	return response, nil
}

func (s *space) newObject(handle uint32, response []byte) ([]byte, error) {
	for i := range s.objects {
		if !s.objects[i].used {
			s.objects[i] = object{handle: handle, used: true}
			binary.BigEndian.PutUint32(response[headerSize:], firstVirtual-uint32(i))
			return response, nil
		}
	}
	return failure(tpm2.TPMRCObjectMemory), s.flush(handle)
}

func (s *space) newSession(handle uint32, response []byte) ([]byte, error) {
	s.parked = slices.DeleteFunc(s.parked, func(h uint32) bool { return sameSession(h, handle) })
	// One of the same number ended with the command that used it.
	s.sessions = slices.DeleteFunc(s.sessions, func(o session) bool { return sameSession(o.handle, handle) })
	s.dropEnded()
	if len(s.sessions) == spaceSlots {
		return failure(tpm2.TPMRCSessionMemory), s.flush(handle)
	}
	s.sessions = append(s.sessions, session{handle: handle})
	return response, nil
}

// dropEnded forgets sessions that the chip flushed with the command that used them.
func (s *space) dropEnded() {
	if len(s.sessions) < spaceSlots {
		return
	}
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapHandles, Property: typeHMAC, PropertyCount: 64,
	}.Execute(locked{s.m})
	if err != nil {
		return
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return
	}
	s.sessions = slices.DeleteFunc(s.sessions, func(o session) bool {
		return !slices.ContainsFunc(list.Handle, func(h tpm2.TPMHandle) bool { return sameSession(uint32(h), o.handle) })
	})
}

// sameSession compares numbers. The top byte says HMAC or policy in the handle that
// a command gives, but loaded or saved in the lists of the chip.
func sameSession(a, b uint32) bool { return a&^uint32(typeMask) == b&^uint32(typeMask) }

// locked is the chip for code that already holds mux.mu.
type locked struct{ m *mux }

func (l locked) Send(command []byte) ([]byte, error) { return l.m.exchange(command) }

func (s *space) flushed(handle uint32) {
	if handle&typeMask == typeTransient {
		s.objects[firstVirtual-handle] = object{}
		return
	}
	s.sessions = slices.DeleteFunc(s.sessions, func(o session) bool { return o.handle == handle })
	s.parked = slices.DeleteFunc(s.parked, func(h uint32) bool { return h == handle })
}

func (s *space) saved(handle uint32) {
	if handle&typeMask == typeTransient {
		return // a copy; the object stays
	}
	s.sessions = slices.DeleteFunc(s.sessions, func(o session) bool { return o.handle == handle })
	s.parked = append(s.parked, handle)
}

// ownHandles rewrites a list of handles: virtual ones for objects, and no session
// of another client. Other capabilities pass unchanged.
func (s *space) ownHandles(response []byte) []byte {
	const listAt = headerSize + 1 + 4 + 4 // moreData, capability, count
	if len(response) < listAt || binary.BigEndian.Uint32(response[headerSize+1:]) != uint32(tpm2.TPMCapHandles) {
		return response
	}
	out := slices.Clone(response[:listAt])
	count := uint32(0)
	for at := listAt; at+4 <= len(response); at += 4 {
		if handle, own := s.visible(binary.BigEndian.Uint32(response[at:])); own {
			out = binary.BigEndian.AppendUint32(out, handle)
			count++
		}
	}
	binary.BigEndian.PutUint32(out[listAt-4:], count)
	binary.BigEndian.PutUint32(out[2:], uint32(len(out)))
	return out
}

func (s *space) visible(handle uint32) (uint32, bool) {
	switch handle & typeMask {
	case typeTransient:
		for i, o := range s.objects {
			if o.used && o.handle == handle {
				return firstVirtual - uint32(i), true
			}
		}
		return 0, false
	case typeHMAC, typePolicy:
		own := slices.ContainsFunc(s.parked, func(h uint32) bool { return sameSession(h, handle) }) ||
			slices.ContainsFunc(s.sessions, func(o session) bool { return sameSession(o.handle, handle) })
		return handle, own
	}
	return handle, true
}
