package mqttconn

import (
	"bytes"
	"errors"
	"net"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

// feed is a connection that has only input.
type feed struct {
	net.Conn
	r *bytes.Reader
}

func (f feed) Read(p []byte) (int, error) { return f.r.Read(p) }

func limited(data []byte, limit int) *limitedConn {
	return &limitedConn{Conn: feed{r: bytes.NewReader(data)}, limit: limit, failed: func(error) {}}
}

func TestPacketLongerThanTheLimitIsRefusedAtItsHeader(t *testing.T) {
	for name, header := range map[string][]byte{
		"256 MiB":     {0x30, 0xff, 0xff, 0xff, 0x7f},
		"over":        {0x30, 0x81, 0x08},
		"no length":   {0x30, 0xff, 0xff, 0xff, 0xff, 0x01},
		"after a fit": append(append([]byte{0x30, 0x80, 0x08}, make([]byte, 1024)...), 0x30, 0xff, 0xff, 0xff, 0x7f),
	} {
		c := limited(append(header, make([]byte, 100)...), 1024)
		var err error
		for err == nil {
			_, err = c.Read(make([]byte, 4096))
		}
		if err.Error() != "packet is longer than 1024 bytes" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzTheLimitChangesNothingThatFits(f *testing.F) {
	f.Add([]byte{0x30, 5, 0, 1, 'a', 0, 'b', 0xd0, 0}, uint8(3))
	f.Add([]byte{0x20, 3, 0, 0, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		c := limited(data, 1<<28)
		chunk := make([]byte, int(step)+1)
		var got []byte
		for {
			n, err := c.Read(chunk)
			got = append(got, chunk[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.HasPrefix(data, got) {
			t.Fatalf("%x was read as %x", data, got)
		}
		// What the library reads as whole packets, the limit followed to its end.
		r := bytes.NewReader(data)
		if len(data) < 1<<12 && c.length < 1<<12 {
			for r.Len() > 0 {
				if _, err := packets.ReadPacket(r); err != nil {
					return
				}
			}
			if c.left != 0 || c.started {
				t.Fatalf("%x are whole packets, but %d bytes are missed", data, c.left)
			}
		}
	})
}

func TestOnlyRefusalsOfThisIdentityAskForCredentials(t *testing.T) {
	for code, want := range map[byte]bool{0: true, 0x85: true, 0x86: true, 0x87: true, 0x8A: true, 0x98: true, 0x88: false, 0x89: false, 0x8B: false, 0x8E: false} {
		if got := (&Refused{Code: code}).Credentials(); got != want {
			t.Errorf("code %#x: %v", code, got)
		}
	}
	for text, want := range map[string]bool{
		"tls: expired certificate": true, "tls: bad certificate": true, "tls: unknown certificate authority": true,
		"tls: access denied": true, "tls: internal error": false, "tls: handshake failure": false,
	} {
		err := classify(&net.OpError{Op: "remote error", Err: errors.New(text)})
		var refused *Refused
		if errors.As(err, &refused) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := classify(&net.OpError{Op: "read", Err: errors.New("tls: bad certificate")}); errors.As(err, new(*Refused)) {
		t.Error("a local error passed as the broker's")
	}
}
