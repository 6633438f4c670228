package chunk

// Limits on what comes from outside, in bytes.
const (
	MaxChunk = 1 << 20 // one chunk, uncompressed
	MaxIndex = 1 << 20 // one encoded index: room for 26,211 chunks
	// MinWindow is the shortest chunk that the cut rule can make: it looks at
	// that many bytes.
	MinWindow = 48
)
