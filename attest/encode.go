package attest

import "encoding/binary"

// NewEventLog returns the header of a crypto-agile log with a SHA-256 bank only
// (TCG_EfiSpecIDEvent, Platform Firmware Profile 1.06, section 10.4.5.1).
func NewEventLog() []byte {
	id := append([]byte(specIDAgile), 0, 0, 0, 0 /* class */, 0, 2, 0 /* version */, 2 /* 64-bit */)
	id = binary.LittleEndian.AppendUint32(id, 1)
	id = binary.LittleEndian.AppendUint16(id, uint16(AlgSHA256))
	id = binary.LittleEndian.AppendUint16(id, uint16(AlgSHA256.size()))
	id = append(id, 0)
	log := binary.LittleEndian.AppendUint32(nil, 0)
	log = binary.LittleEndian.AppendUint32(log, uint32(evNoAction))
	log = append(log, make([]byte, AlgSHA1.size())...)
	log = binary.LittleEndian.AppendUint32(log, uint32(len(id)))
	return append(log, id...)
}

// AppendEvent appends ev to log, a crypto-agile log with a SHA-256 bank only, as
// TCG_PCR_EVENT2. Index and Offset of ev play no part.
func AppendEvent(log []byte, ev LogEvent) []byte {
	log = binary.LittleEndian.AppendUint32(log, uint32(ev.PCR))
	log = binary.LittleEndian.AppendUint32(log, uint32(ev.Type))
	log = binary.LittleEndian.AppendUint32(log, 1)
	log = binary.LittleEndian.AppendUint16(log, uint16(AlgSHA256))
	log = append(log, ev.Digest[:]...)
	log = binary.LittleEndian.AppendUint32(log, uint32(len(ev.Data)))
	return append(log, ev.Data...)
}
