// Package helperwire is what agent and helper say to each other over a Unix
// stream socket: one request and one response per connection. A frame is a length
// of 4 bytes, big endian, and that much JSON, decoded strictly. Open files travel
// beside the first byte of a response (SCM_RIGHTS).
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
)

// Request is the agent's only message.
type Request struct {
	Version  int            `json:"v"` // 1
	Verb     string         `json:"verb"`
	Envelope *wire.Envelope `json:"envelope,omitempty"`
}

// Response is the helper's only message. Either Error is set, or the verb was done.
type Response struct {
	Version int    `json:"v"` // 1
	Error   *Error `json:"error,omitempty"`
	Info    *Info  `json:"info,omitempty"`
	Logs    *Logs  `json:"logs,omitempty"`
}

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
