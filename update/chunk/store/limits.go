package store

import "github.com/gatewarden/gatewarden/update/chunk"

// Limits on what a store sends, in bytes.
const (
	// maxPacked is the longest compressed chunk. zstd grows what it can't compress
	// by 3 bytes per 128 KiB and its frame's head and tail.
	maxPacked = chunk.MaxChunk + 1<<10
	// maxWindow is what RFC 8878, section 3.1.1.1.2, tells decoders to support;
	// casync writes frames with windows of up to 2 MiB.
	maxWindow = 8 << 20
	// readStep is how much is asked of a budget at once.
	readStep = 32 << 10
)

// packedLimit is the longest compressed form that is read for size bytes.
func packedLimit(size int) int { return min(size+1<<10, maxPacked) }
