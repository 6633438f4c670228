package helper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/helperwire"
)

func frame(data string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
}

// wantClosed reads until the helper closes, and returns what it said before.
func wantClosed(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection was not closed: %v", err)
	}
	return data
}

func TestGarbageClosesItsConnectionOnly(t *testing.T) {
	m := newMachine(t)
	c := m.run()
	for name, data := range map[string][]byte{
		"no JSON":       frame("garbage"),
		"text":          []byte("GET / HTTP/1.1\r\n\r\n"),
		"length 0":      {0, 0, 0, 0},
		"huge length":   {0xff, 0xff, 0xff, 0xff},
		"over length":   binary.BigEndian.AppendUint32(nil, helperwire.MaxFrame+1),
		"key twice":     frame(`{"v":1,"verb":"info","verb":"reboot"}`),
		"unknown key":   frame(`{"v":1,"verb":"info","device":"gw-mine"}`),
		"case folded":   frame(`{"v":1,"Verb":"info"}`),
		"data behind":   frame(`{"v":1,"verb":"info"}{}`),
		"deep":          frame(strings.Repeat("[", 60_000)),
		"invalid UTF-8": frame("{\"v\":1,\"verb\":\"\xff\"}"),
	} {
		conn := m.raw()
		if _, err := conn.Write(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if said := wantClosed(t, conn); len(said) > 0 {
			t.Errorf("%s: was answered %q", name, said)
		}
		if _, err := c.Info(t.Context()); err != nil {
			t.Errorf("%s: the helper no longer serves: %v", name, err)
		}
	}
}

func TestUnknownVerbAndVersionAreRefusedInWords(t *testing.T) {
	m := newMachine(t)
	m.run()
	for _, request := range []string{`{"v":1,"verb":"exec"}`, `{"v":1,"verb":""}`, `{"v":2,"verb":"info"}`, `{"v":1,"verb":"reboot"}`} {
		conn := m.raw()
		if _, err := conn.Write(frame(request)); err != nil {
			t.Fatal(err)
		}
		var response helperwire.Response
		if err := helperwire.Read(bytes.NewReader(wantClosed(t, conn)), &response); err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		if response.Error == nil || response.Error.Rule == "" || response.Info != nil {
			t.Errorf("%s was answered %+v", request, response)
		}
	}
	m.wantNoReboot()
}

func TestOtherUserIsTurnedAway(t *testing.T) {
	m := newMachine(t)
	m.config.PeerUID = os.Geteuid() + 1 // we are the other user
	if os.Geteuid() != 0 {
		t.Skip("only root can hand a socket to another user and still open it")
	}
	c := m.run()
	if _, err := c.Info(t.Context()); err == nil {
		t.Error("another user was served")
	}
	conn := m.raw()
	if said := wantClosed(t, conn); len(said) > 0 {
		t.Errorf("another user was told %q", said)
	}
}

// A client that stops in the middle of a frame is cut off in time, and nobody
// waits for it.
func TestHalfFrameStallsNobody(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := m.run()
	for try := 1; ; try++ { // the machine itself may stall, but not each time
		began := time.Now()
		stalled := m.raw()
		if _, err := stalled.Write(frame(`{"v":1,"verb":"info"}`)[:10]); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Info(t.Context()); err != nil {
			t.Error(err)
		}
		took := time.Since(began)
		wantClosed(t, stalled)
		if took <= frameTimeout/2 {
			return
		}
		if try == 5 {
			t.Fatalf("another client waited %v", took)
		}
	}
}

// A thousand connections of the right user: at most maxConnections are held, the
// others are closed, and it serves again as soon as they leave.
func TestThousandConnections(t *testing.T) {
	m := newMachine(t)
	c := m.run()
	held := make([]*net.UnixConn, 0, maxConnections)
	for range 1000 {
		conn := m.raw()
		if len(held) < maxConnections {
			held = append(held, conn)
			continue
		}
		wantClosed(t, conn)
		conn.Close()
	}
	if _, err := c.Info(t.Context()); err == nil {
		t.Error("served one more than the limit")
	}
	for _, conn := range held {
		conn.Close()
	}
	deadline := time.Now().Add(patience)
	for {
		_, err := c.Info(t.Context())
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not serving: %v", err)
		}
	}
}

// FuzzRequest: no frame panics or reboots.
func FuzzRequest(f *testing.F) {
	m := newMachine(f)
	f.Add([]byte(`{"v":1,"verb":"info"}`))
	f.Add([]byte(`{"v":1,"verb":"reboot","envelope":{"command":"e30=","signatures":["x"]}}`))
	s, err := open(f.Context(), m.config)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r helperwire.Request
		if helperwire.Read(bytes.NewReader(frame(string(data))), &r) != nil {
			return
		}
		a := s.answer(t.Context(), r)
		defer a.close()
		if a.after != nil {
			t.Error("an unsigned request is about to reboot")
		}
	})
}
