package sshsig

import (
	"encoding/binary"
	"errors"
	"math/big"
)

// reader takes the data types of RFC 4251, section 5, off the front of rest. After
// a failure everything reads as empty, and finish tells.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	var out []byte
	out, r.rest = r.rest[:n:n], r.rest[n:]
	return out
}

func (r *reader) uint32() uint32 {
	b := r.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *reader) byte() byte {
	b := r.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

func (r *reader) string() []byte { return r.take(uint64(r.uint32())) }

// mpint reads a positive number. RFC 4251 wants the shortest form, so a number
// has one encoding.
func (r *reader) mpint() *big.Int {
	b := r.string()
	padded := len(b) > 1 && b[0] == 0 && b[1] < 0x80
	if len(b) == 0 || b[0] >= 0x80 || padded {
		r.bad = true
		return new(big.Int)
	}
	n := new(big.Int).SetBytes(b)
	r.bad = r.bad || n.Sign() == 0
	return n
}

func (r *reader) finish() error {
	if r.bad {
		return errors.New("it is cut short or wrongly encoded")
	}
	if len(r.rest) > 0 {
		return errors.New("data follows its end")
	}
	return nil
}

func appendUint32(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }

func appendString[T ~string | ~[]byte](b []byte, s T) []byte {
	return append(appendUint32(b, uint32(len(s))), s...)
}
