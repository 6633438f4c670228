package lab

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// What was flushed is in every crash state; what was not, is lost in some.
func TestACrashLosesOnlyWhatWasNotFlushed(t *testing.T) {
	block := func(b byte) []byte { return bytes.Repeat([]byte{b}, 2*sectorSize) }
	writes := []write{{at: 0, data: block(1)}, {flush: true}, {mark: 7, hasMark: true}, {at: 2 * sectorSize, data: block(2)}}
	var lost, torn, kept, early int
	for seed := range uint64(200) {
		state := make([]byte, 4*sectorSize)
		if acked := crash(state, writes, rand.New(rand.NewPCG(seed, 0)), Lose{}); acked != 7 {
			t.Fatalf("the mark is %d", acked)
		}
		if !bytes.Equal(state[:2*sectorSize], block(1)) {
			t.Fatal("a flushed write is lost")
		}
		switch {
		case bytes.Equal(state[2*sectorSize:], block(2)):
			kept++
		case state[2*sectorSize] == 0:
			lost++
		default:
			torn++
		}
		state = make([]byte, 4*sectorSize)
		crash(state, writes, rand.New(rand.NewPCG(seed, 0)), Lose{Flushed: true})
		if !bytes.Equal(state[:2*sectorSize], block(1)) {
			early++
		}
	}
	if lost == 0 || torn == 0 || kept == 0 || early == 0 {
		t.Errorf("of 200 states %d lost, %d tore, %d kept the write; %d lost a flushed one where flushes are ignored", lost, torn, kept, early)
	}
}
