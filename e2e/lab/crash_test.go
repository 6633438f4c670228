package lab

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What was flushed is in every crash state; what was not, is lost in some.
func TestACrashLosesOnlyWhatWasNotFlushed(t *testing.T) {
	block := func(b byte) []byte { return bytes.Repeat([]byte{b}, 2*sectorSize) }
	writes := []write{{at: 0, data: block(1)}, {flush: true}, {mark: 7, hasMark: true}, {at: 2 * sectorSize, data: block(2)}}
	var lost, torn, kept, early, late int
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
		switch first, second := bytes.Equal(state[:2*sectorSize], block(1)), bytes.Equal(state[2*sectorSize:], block(2)); {
		case !first:
			early++
		case !second:
			late++
		}
	}
	if lost == 0 || torn == 0 || kept == 0 || early == 0 || late == 0 {
		t.Errorf("of 200 states %d lost, %d tore, %d kept the write; where flushes are ignored %d lost a flushed one, %d only a later one", lost, torn, kept, early, late)
	}
}

// The log is read as QEMU writes it: data, and flushes that had something to flush.
func TestALogOfWritesIsReadAsQEMUWritesIt(t *testing.T) {
	tool, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skip("qemu-io is missing: install the package qemu-utils (tools/setup.sh e2e)")
	}
	dir := t.TempDir()
	disk, log := filepath.Join(dir, "disk"), filepath.Join(dir, "log")
	for path, size := range map[string]int64{disk: 8 << 20, log: 0} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(tool, "--image-opts", "driver=blklogwrites,file.driver=file,file.filename="+disk+",log.driver=file,log.filename="+log,
		"-c", "write -P 1 1M 4k", "-c", "flush", "-c", "flush", "-c", "write -P 2 4M 512", "-c", "flush", "-c", "write -f -P 3 1028k 1k").CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	got, err := readLog(log, 1<<20, 1<<20) // the second MiB
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, w := range got {
		text = append(text, fmt.Sprintf("%d+%d flush=%t forced=%t", w.at, len(w.data), w.flush, w.forced))
	}
	want := "0+4096 flush=false forced=false, 0+0 flush=true forced=false, 4096+1024 flush=false forced=false, 0+0 flush=true forced=false" // QEMU makes a flush of FUA
	if s := strings.Join(text, ", "); !strings.HasPrefix(s, want) {
		t.Errorf("read %s\nwant %s", s, want)
	}
}
