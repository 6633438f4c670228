package attest

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// ReadIMA takes a list in any form in which a kernel writes it, and returns it as
// binary_runtime_measurements, which all else reads: that file, its ASCII form, or,
// since Linux 6.10, those of one bank (binary_runtime_measurements_sha256 and so on),
// which hold the template digests of that bank. Little endian. It refuses an entry
// whose template digest is not that of its data.
func ReadIMA(data []byte) ([]byte, error) {
	if len(data) > 1 && data[1] != 0 { // no PCR is 256 or more
		return IMAFromText(data)
	}
	if len(data) > maxIMALog {
		return nil, fmt.Errorf("read IMA list: %d bytes, at most %d are allowed", len(data), maxIMALog)
	}
	var first error
	for _, bank := range []Algorithm{AlgSHA1, AlgSHA256, AlgSHA384, AlgSHA512} {
		list, entries, err := imaOfBank(data, bank)
		if err == nil {
			return list, nil
		}
		if first == nil || entries > 0 { // so many were of this bank
			first = err
		}
	}
	return nil, fmt.Errorf("read IMA list: %w", first)
}

// imaOfBank reads a list with template digests of a bank, and says how many of its
// entries are that.
func imaOfBank(data []byte, bank Algorithm) (list []byte, entries int, err error) {
	sha1, own := AlgSHA1.hash(), bank.hash()
	c := &cursor{data: data, order: binary.LittleEndian}
	for entry := (imaEntry{}); c.left() > 0; entries++ {
		begin := c.pos
		if entry.readBank(c, bank.size()); c.err != nil {
			return nil, entries, fmt.Errorf("entry %d: %w", entries, c.err)
		}
		recorded, sum := data[begin+4:begin+4+bank.size()], make([]byte, AlgSHA1.size())
		if !entry.violation {
			own.Reset()
			own.Write(entry.data)
			if !bytes.Equal(own.Sum(nil), recorded) {
				return nil, entries, fmt.Errorf("entry %d: its %s template digest is not that of its data", entries, bank)
			}
			sha1.Reset()
			sha1.Write(entry.data)
			sum = sha1.Sum(nil)
		}
		list = append(append(append(list, data[begin:begin+4]...), sum...), data[begin+4+bank.size():c.pos]...)
	}
	return list, entries, nil
}
