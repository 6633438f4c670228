package link

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// record is a stored message: sealed JSON.
type record struct {
	Kind wire.Kind       `json:"kind"`
	Time time.Time       `json:"time"`
	Body json.RawMessage `json:"body"`
}

func encodeRecord(r record) ([]byte, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(data) > maxRecord {
		return nil, fmt.Errorf("record of %d bytes is more than %d", len(data), maxRecord)
	}
	return seal(data), nil
}

func decodeRecord(data []byte) (record, error) {
	var r record
	data, err := unseal(data)
	if err != nil {
		return r, err
	}
	if err := strictjson.Inform(data, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if r.Kind == "" { // one that is not known here is of a later release, which was left again
		return r, fmt.Errorf("%w: a record without kind", errDamaged)
	}
	return r, nil
}

// seal puts a CRC-32C (4 bytes, big-endian) before data: the file format checks
// only its own head.
func seal(data []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, checksum(data)), data...)
}

func unseal(data []byte) ([]byte, error) {
	if len(data) < 4 || binary.BigEndian.Uint32(data) != checksum(data[4:]) {
		return nil, fmt.Errorf("%w: a checksum is wrong", errDamaged)
	}
	return data[4:], nil
}

func checksum(data []byte) uint32 {
	return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
}
