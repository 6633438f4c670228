package helperwire

import (
	"bytes"
	"encoding/binary"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/wire"
)

func TestLargestEnvelopeFits(t *testing.T) {
	env := wire.Envelope{Command: make([]byte, wire.MaxCommand), Signatures: []string{strings.Repeat("x", wire.MaxBody-2*wire.MaxCommand)}}
	frame, err := Encode(Request{Version: 1, Verb: VerbReboot, Envelope: &env})
	if err != nil {
		t.Fatal(err)
	}
	var got Request
	if err := Read(bytes.NewReader(frame), &got); err != nil || !reflect.DeepEqual(*got.Envelope, env) {
		t.Errorf("read back: %v", err)
	}
	env.Signatures[0] += strings.Repeat("x", MaxFrame)
	if _, err := Encode(Request{Envelope: &env}); err == nil {
		t.Error("encoded more than a frame holds")
	}
}

// endless hands out bytes and counts them.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func TestHugeLengthIsRefusedUnread(t *testing.T) {
	for _, size := range []uint32{0, MaxFrame + 1, 1 << 31, 1<<32 - 1} {
		rest := &endless{}
		r := io.MultiReader(bytes.NewReader(binary.BigEndian.AppendUint32(nil, size)), rest)
		if err := Read(r, &Request{}); err == nil || rest.read > 0 {
			t.Errorf("length %d: %v, %d bytes were read", size, err, rest.read)
		}
	}
}

func TestHugeRawLengthIsRefusedUnread(t *testing.T) {
	for _, size := range []int64{-1, -1 << 63, 1<<20 + 1, 1 << 31, 1 << 32, 1<<63 - 1} {
		rest := &endless{}
		if _, err := ReadRaw(rest, size, 1<<20, nil); err == nil || rest.read > 0 {
			t.Errorf("%d bytes: %v, %d bytes were read", size, err, rest.read)
		}
	}
	if _, err := ReadRaw(bytes.NewReader(make([]byte, 9)), 10, 10, nil); err == nil {
		t.Error("half of what was announced is accepted")
	}
}

func FuzzRead(f *testing.F) {
	frame, err := Encode(Request{Version: 1, Verb: VerbInfo})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	for _, r := range []Request{
		{Version: 1, Verb: VerbInstall, Target: "releases/gw/stable/1.0.0.json"}, {Version: 1, Verb: StepFile, Absent: true},
		{Version: 1, Verb: StepChunk, Chunk: 7, Raw: 1 << 16}, {Version: 1, Verb: StepSeed, Raw: -1}, {Version: 1, Verb: VerbTry, Release: "1.0.0"},
	} {
		frame, err := Encode(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		if Read(bytes.NewReader(data), &r) != nil {
			return
		}
		frame, err := Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		var again Request
		if err := Read(bytes.NewReader(frame), &again); err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("does not survive a round trip: %+v, %v", r, err)
		}
		rest := &endless{}
		if raw, err := ReadRaw(rest, r.Raw, MaxFrame, nil); (err == nil) != (r.Raw >= 0 && r.Raw <= MaxFrame) || int64(len(raw)) > max(r.Raw, 0) {
			t.Errorf("%d raw bytes: got %d, %v", r.Raw, len(raw), err)
		}
	})
}
