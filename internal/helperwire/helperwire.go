// Package helperwire is what agent and helper say to each other over a Unix
// stream socket: one request and one response per connection, but for an install
// session, which is many. A frame is a length of 4 bytes, big endian, and that
// much JSON, decoded strictly; the raw bytes that a request announces follow it.
// Open files travel beside the first byte of a response (SCM_RIGHTS).
package helperwire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// MaxFrame is the longest frame without its length, in bytes: an envelope that
// came as one MQTT payload, and what we put around it.
const MaxFrame = wire.MaxBody + 4<<10

// The verbs of the helper. Whoever reads this list knows what it can be asked.
const (
	VerbInfo   = "info"   // who is this device
	VerbLogs   = "logs"   // the boot and IMA logs, opened for reading
	VerbReboot = "reboot" // takes the envelope that authorises it

	// A session as install, which ends with the metadata. Raw: operators.json.
	VerbOperators = "operators"

	VerbSlots    = "slots"    // what the slots hold and which one runs
	VerbInstall  = "install"  // begins a session: takes the signed metadata, writes the spare slot
	VerbTry      = "try"      // boot the installed release once; reboots
	VerbCommit   = "commit"   // keep the release that runs on trial
	VerbRollback = "rollback" // give up the release that runs, or waits, on trial
)

// The steps of an install session. After the verb install the helper asks for the
// metadata files that it needs (Response.Want), one after the other, each of which
// the agent answers by the step file. Then, for each image of the release: index,
// seed and chunks; at last finish.
const (
	StepFile   = "file"   // raw: the file that was wanted; Absent: there is none
	StepIndex  = "index"  // Image names the image; raw: its index
	StepSeed   = "seed"   // raw: the index of what the running slot holds, may be empty
	StepChunk  = "chunk"  // Chunk is its number; raw: its uncompressed bytes
	StepFinish = "finish" // all images are written
)

// Request is the agent's only message.
type Request struct {
	Version  int            `json:"v"` // 1
	Verb     string         `json:"verb"`
	Envelope *wire.Envelope `json:"envelope,omitempty"`
	Target   string         `json:"target,omitempty"`  // install: path of the release in the repository
	Release  string         `json:"release,omitempty"` // try, commit: the version that is meant
	Image    string         `json:"image,omitempty"`   // index: the kind of slot
	Chunk    int            `json:"chunk,omitempty"`   // chunk: its number
	Absent   bool           `json:"absent,omitempty"`  // file: the repository has none
	Raw      int64          `json:"raw,omitempty"`     // bytes that follow this frame
}

// Response is the helper's only message. Either Error is set, or the verb was
// done; Want and Progress come before that.
type Response struct {
	Version  int       `json:"v"` // 1
	Error    *Error    `json:"error,omitempty"`
	Info     *Info     `json:"info,omitempty"`
	Logs     *Logs     `json:"logs,omitempty"`
	Slots    *Slots    `json:"slots,omitempty"`
	Want     *Want     `json:"want,omitempty"`
	Install  *Install  `json:"install,omitempty"`
	Missing  []byte    `json:"missing,omitempty"` // seed: bit n%8, from the lowest, of byte n/8 is set if chunk n is needed
	Progress *Progress `json:"progress,omitempty"`
}

// Want asks for a metadata file of the repository.
type Want struct {
	Name  string `json:"name"`
	Limit int64  `json:"limit"` // bytes; a longer file is not taken
}

// Progress says that a long step goes on.
type Progress struct {
	Done  int64 `json:"done"` // bytes
	Total int64 `json:"total"`
}

// Install is a session that may begin.
type Install struct {
	Slot    string  `json:"slot"`    // that is written: "a" or "b"
	Release string  `json:"release"` // version
	Images  []Image `json:"images"`
}

// Image is one image of a release, as its signed metadata names it.
type Image struct {
	Kind   string `json:"kind"`         // of slot: "rootfs", "boot"
	Size   int64  `json:"size"`         // bytes
	Index  string `json:"index"`        // path of the index in the repository
	Length int64  `json:"index_length"` // bytes
}

// Slots is the helper's account of the machine's software.
type Slots struct {
	Product  string          `json:"product"`
	Channel  string          `json:"channel"`
	Hardware string          `json:"hardware"`
	Running  string          `json:"running"` // slot
	Trial    bool            `json:"trial"`   // it is not the default
	Version  string          `json:"version"` // that runs
	Epoch    uint64          `json:"epoch"`   // security epoch that was reached
	Slots    map[string]Slot `json:"slots"`   // by name; one that was never written is absent
	Counter  string          `json:"counter"` // "none", "ok", or what is wrong with the TPM's counter
	// CounterRecord is what a sealing policy has to know of the counter: JSON of
	// tpm/counter.Record; empty if there is none.
	CounterRecord []byte `json:"counter_record,omitempty"`
}

// Slot is what one slot holds.
type Slot struct {
	State   string `json:"state"` // see the states below
	Release string `json:"release"`
	Epoch   uint64 `json:"epoch"`
}

// States of a slot.
const (
	SlotWriting  = "writing"  // an install began
	SlotComplete = "complete" // written and verified as a whole
	SlotTrying   = "trying"   // was to be booted on trial
	SlotGood     = "good"     // was committed
	SlotFailed   = "failed"   // was given up
)

// Error says why a verb was not done.
type Error struct {
	Rule string `json:"rule,omitempty"` // which rule refused; empty: it was tried and did not work
	Text string `json:"text"`           // a sentence
}

// Info is what the helper found out by itself.
type Info struct {
	Device    string    `json:"device"`
	Fleet     string    `json:"fleet"`
	Software  string    `json:"software"`   // the helper's version
	TimeFloor time.Time `json:"time_floor"` // the helper's own
	Challenge []byte    `json:"challenge"`  // a command to the helper must carry it while there is no trustworthy time
}

// Logs says which files come with the response: the event log first.
type Logs struct {
	Event bool `json:"event"`
	IMA   bool `json:"ima"`
}

// Encode returns v as a frame.
func Encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	if len(data) > MaxFrame {
		return nil, fmt.Errorf("encode frame: %d bytes, more than %d", len(data), MaxFrame)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...), nil
}

// ReadRaw reads the raw bytes behind a request into buf, which grows only if they
// are within limit.
func ReadRaw(r io.Reader, size, limit int64, buf []byte) ([]byte, error) {
	if size < 0 || size > limit {
		return nil, fmt.Errorf("%d raw bytes were announced, at most %d are taken", size, limit)
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	if _, err := io.ReadFull(r, buf[:size]); err != nil {
		return nil, fmt.Errorf("read raw bytes: %w", err)
	}
	return buf[:size], nil
}

// Read reads one frame into v. The length is checked before anything is made to
// hold it.
func Read(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read frame length: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > MaxFrame {
		return fmt.Errorf("frame is %d bytes long, not 1 to %d", size, MaxFrame)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	if err := strictjson.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode frame: %w", err)
	}
	return nil
}
