package attest

import (
	"encoding/binary"
	"fmt"
)

// cursor reads fields from bytes of an enemy. The first field that does not fit
// stops it: err keeps offset and reason, and all further reads give zero values.
// It allocates nothing but the error.
type cursor struct {
	data  []byte
	pos   int
	order binary.ByteOrder
	err   error
	short bool // err is that the input ends too early
}

func (c *cursor) left() int { return len(c.data) - c.pos }

func (c *cursor) fail(at int, format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("at byte %d: %s", at, fmt.Sprintf(format, args...))
	}
}

// take returns the next n bytes as a part of the input.
func (c *cursor) take(n uint64, what string) []byte {
	if c.err != nil {
		return nil
	}
	if n > uint64(c.left()) {
		c.fail(c.pos, "%s needs %d bytes, %d remain", what, n, c.left())
		c.short = true
		return nil
	}
	out := c.data[c.pos : c.pos+int(n) : c.pos+int(n)]
	c.pos += int(n)
	return out
}

func (c *cursor) u8(what string) uint8 {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16(what string) uint16 {
	if b := c.take(2, what); b != nil {
		return c.order.Uint16(b)
	}
	return 0
}

func (c *cursor) u32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return c.order.Uint32(b)
	}
	return 0
}

func (c *cursor) u64(what string) uint64 {
	if b := c.take(8, what); b != nil {
		return c.order.Uint64(b)
	}
	return 0
}

// sized reads a TPM2B: a 16-bit length and so many bytes, at most limit.
func (c *cursor) sized(limit int, what string) []byte {
	at := c.pos
	n := c.u16(what)
	if int(n) > limit {
		c.fail(at, "%s has %d bytes, at most %d are allowed", what, n, limit)
	}
	return c.take(uint64(n), what)
}

// end fails unless all was read.
func (c *cursor) end(what string) error {
	if c.err == nil && c.left() != 0 {
		c.fail(c.pos, "%d bytes behind the %s", c.left(), what)
	}
	return c.err
}
