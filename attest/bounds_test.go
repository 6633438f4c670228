package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"
	"time"
)

const hostileSize = 64 << 20 // bytes

// hostileInputs are 64 MiB each of what is worst for one of the readers: as many of
// the smallest things as there is room for, one thing without an end, lengths that lie.
func hostileInputs() map[string][]byte {
	repeat := func(part []byte) []byte { return bytes.Repeat(part, hostileSize/len(part)) }
	small, _ := encodeIMA("ima-ng", Digest{1}, "a")
	large, _ := encodeIMA("ima-ng", Digest{1}, strings.Repeat("p", maxPath-1))
	lies := binary.LittleEndian.AppendUint32(nil, 0xfffffff0)
	return map[string][]byte{
		"nothing but zeros":         make([]byte, hostileSize),
		"lengths of 4 GiB":          repeat(lies),
		"the smallest IMA entries":  repeat(small),
		"IMA entries of long paths": repeat(large),
		"one line":                  bytes.Repeat([]byte("a"), hostileSize),
		"empty lines":               bytes.Repeat([]byte("\n"), hostileSize),
		"short ASCII entries":       repeat([]byte("10 " + strings.Repeat("0", 40) + " ima-ng sha256:" + strings.Repeat("0", 64) + " /a\n")),
		"an allow-list":             repeat([]byte(strings.Repeat("0", 64) + "  a\n")),
		"brackets":                  bytes.Repeat([]byte("["), hostileSize),
		"keys of JSON":              repeat([]byte(`{"format":`)),
		"events without an end":     append(NewEventLog(), make([]byte, hostileSize)...),
	}
}

// hostileReaders are all that read what a stranger may have written, with the bytes
// that each may allocate over its whole run, most of it garbage soon.
func hostileReaders() []hostileReader {
	return []hostileReader{
		{"event log", 1 << 20, func(in []byte) { _, _ = ParseEventLog(in) }},
		{"signature lists", 1 << 20, func(in []byte) { _ = walkSignatures(in, func(string, []byte) {}) }},
		{"device path", 1 << 20, func(in []byte) { _ = clean(imagePath(in)) }},
		{"IMA list", 1 << 20, func(in []byte) { _, _ = ReplayIMA(in, Digest{9}) }},
		{"IMA list in text", 10 * hostileSize, func(in []byte) { _, _ = IMAFromText(in) }},
		{"allow-list", 4 * hostileSize, func(in []byte) { _ = (&imaReference{files: make(map[string]struct{})}).readFiles(in) }},
		{"key of files", 4 * hostileSize, func(in []byte) { _, _ = readFileKey(string(in)) }},
		{"appended signature", 1 << 20, func(in []byte) { _, _ = readModsig(in) }},
		{"policy", 1 << 20, func(in []byte) { _, _ = ParsePolicy(in) }},
		{"recorded evidence", 4 * hostileSize, func(in []byte) { _, _ = ParseRecorded(in) }},
	}
}

type hostileReader struct {
	name  string
	limit uint64
	read  func([]byte)
}

func TestHostileInputOf64MiBCostsBoundedMemory(t *testing.T) {
	for name, input := range hostileInputs() {
		for _, r := range hostileReaders() {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r.read(input)
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > r.limit {
				t.Errorf("%s, read as %s: %d bytes allocated, at most %d are allowed", name, r.name, got, r.limit)
			}
		}
	}
}

// BenchmarkHostileInput reports the slowest of all pairs of input and reader, in
// times that SHA-256 takes over the same 64 MiB.
func BenchmarkHostileInput(b *testing.B) {
	var worst float64
	for b.Loop() {
		for name, input := range hostileInputs() {
			start := time.Now()
			_ = sha256.Sum256(input)
			raw := time.Since(start)
			for _, r := range hostileReaders() {
				start := time.Now()
				r.read(input)
				if ratio := float64(time.Since(start)) / float64(raw); ratio > worst {
					worst = ratio
					b.Logf("%s, read as %s: %.1fx", name, r.name, ratio)
				}
			}
		}
	}
	b.ReportMetric(worst, "x-sha256")
}
