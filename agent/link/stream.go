package link

import (
	"crypto/rand"
	"encoding/hex"
)

// stream is the state of one class. The stored messages are first..last without
// a gap: only the oldest are ever removed.
type stream struct {
	ID    string `json:"id"`
	Acked uint64 `json:"acked"` // what the fleet has, by its last word
	Last  uint64 `json:"last"`  // Seq given last
	first uint64
	last  uint64 // mirrors Last
	bytes int64  // of the stored records
}

type streams [classes]stream

func newStream(c class) stream {
	var b [8]byte
	rand.Read(b[:])
	return stream{ID: hex.EncodeToString(b[:]) + [classes]string{"-s", "-t"}[c], first: 1}
}

func (s stream) count() int { return int(s.last + 1 - s.first) }

// prev is the Seq of the message that the fleet gets before seq. Those between
// that were dropped show as a distance (wire.Up).
func (s stream) prev(seq uint64) uint64 {
	if seq == s.first {
		return min(s.Acked, seq-1)
	}
	return seq - 1
}
