package helper

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/update/chunk"
)

// racer is a file that never stops changing between two contents.
func racer(t *testing.T, good, bad []byte) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "race")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(good); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, len(good), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			copy(memory[len(memory)-64:], [][]byte{good, bad}[n%2][len(good)-64:])
		}
	})
	t.Cleanup(func() {
		close(stop)
		writer.Wait()
		_ = unix.Munmap(memory)
		f.Close()
	})
	return f
}

// The agent hands over the pages of a file (sendfile) and changes them at the same
// time. What is written is what was hashed, whichever content that was.
func TestRacingWriterGainsNothing(t *testing.T) {
	m := newSlotted(t)
	data := content(2)
	o := newOffer("1.1.0", data)
	m.publish(o)
	m.run()
	conn := m.rawSession(o)
	index := indexOf(t, data)
	good := piece(index, data, 9)
	bad := bytes.Clone(good)
	copy(bad[len(bad)-64:], bytes.Repeat([]byte("evil"), 16))
	file := racer(t, good, bad)
	frame := mustFrame(t, helperwire.Request{Version: 1, Verb: helperwire.StepChunk, Chunk: 9, Raw: int64(len(good))})
	taken := 0
	for range 300 {
		m.must(os.Truncate(m.image("b", "rootfs"), 0)) // as if never written
		m.must(os.Truncate(m.image("b", "rootfs"), int64(len(data))))
		m.say(conn, helperwire.Request{Verb: helperwire.StepIndex, Image: "rootfs"}, index.Encode()) // and forgotten
		_, err := conn.Write(frame)
		m.must(err)
		_, err = file.Seek(0, io.SeekStart)
		m.must(err)
		_, err = io.Copy(conn, file) // the kernel passes pages on
		m.must(err)
		var response helperwire.Response
		m.must(helperwire.Read(conn, &response))
		written, err := os.ReadFile(m.image("b", "rootfs"))
		m.must(err)
		got := piece(index, written, 9)
		switch {
		case response.Error == nil && bytes.Equal(got, good):
			taken++
		case response.Error != nil && response.Error.Rule == "chunk" && bytes.Equal(got, make([]byte, len(good))):
		default:
			t.Fatalf("answer %+v; the slot ends in %q", response.Error, got[len(got)-8:])
		}
	}
	t.Logf("%d of 300 were whole when they were looked at", taken)
}

// say sends one step and returns its answer, which must be no error.
func (m *slotted) say(conn *net.UnixConn, r helperwire.Request, raw []byte) helperwire.Response {
	m.t.Helper()
	r.Version, r.Raw = 1, int64(len(raw))
	_, err := conn.Write(append(mustFrame(m.t, r), raw...))
	m.must(err)
	var response helperwire.Response
	m.must(helperwire.Read(conn, &response))
	if response.Error != nil {
		m.t.Fatalf("%s: %+v", r.Verb, response.Error)
	}
	return response
}

// rawSession is a session whose frames the test writes by itself, index and seed
// done.
func (m *slotted) rawSession(o *offer) *net.UnixConn {
	m.t.Helper()
	conn := m.raw()
	index := indexOf(m.t, o.images["rootfs"]).Encode()
	response := m.say(conn, helperwire.Request{Verb: helperwire.VerbInstall, Target: o.path}, nil)
	for response.Want != nil {
		body, err := m.repo.Metadata().Fetch(m.t.Context(), response.Want.Name, response.Want.Limit)
		if err != nil {
			response = m.say(conn, helperwire.Request{Verb: helperwire.StepFile, Absent: true}, nil)
			continue
		}
		data, err := io.ReadAll(body)
		m.must(err)
		response = m.say(conn, helperwire.Request{Verb: helperwire.StepFile}, data)
	}
	m.say(conn, helperwire.Request{Verb: helperwire.StepIndex, Image: "rootfs"}, index)
	m.say(conn, helperwire.Request{Verb: helperwire.StepSeed}, nil)
	return conn
}

func mustFrame(t testing.TB, r helperwire.Request) []byte {
	t.Helper()
	frame, err := helperwire.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// Wrong framing ends a session, unanswered or with an error, and writes nothing.
func TestGarbageInASessionEndsIt(t *testing.T) {
	raw := func(r helperwire.Request) func(t *testing.T) []byte {
		return func(t *testing.T) []byte { r.Version = 1; return mustFrame(t, r) }
	}
	for name, c := range map[string]func(t *testing.T) []byte{
		"text":               func(*testing.T) []byte { return []byte("GET / HTTP/1.1\r\n\r\n") },
		"huge frame":         func(*testing.T) []byte { return []byte{0xff, 0xff, 0xff, 0xff} },
		"over length":        func(*testing.T) []byte { return binary.BigEndian.AppendUint32(nil, helperwire.MaxFrame+1) },
		"huge chunk":         raw(helperwire.Request{Verb: helperwire.StepChunk, Raw: chunk.MaxChunk + 1}),
		"4 GiB chunk":        raw(helperwire.Request{Verb: helperwire.StepChunk, Raw: 1 << 32}),
		"endless chunk":      raw(helperwire.Request{Verb: helperwire.StepChunk, Raw: 1<<63 - 1}),
		"negative chunk":     raw(helperwire.Request{Verb: helperwire.StepChunk, Raw: -1}),
		"huge index":         raw(helperwire.Request{Verb: helperwire.StepIndex, Image: "rootfs", Raw: chunk.MaxIndex + 1}),
		"finish with bytes":  raw(helperwire.Request{Verb: helperwire.StepFinish, Raw: 1}),
		"file out of turn":   raw(helperwire.Request{Verb: helperwire.StepFile, Absent: true}),
		"verb in a session":  raw(helperwire.Request{Verb: helperwire.VerbTry, Release: "1.1.0"}),
		"install once again": raw(helperwire.Request{Verb: helperwire.VerbInstall}),
		"wrong version":      func(*testing.T) []byte { return frame(`{"v":2,"verb":"finish"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newSlotted(t)
			o := newOffer("1.1.0", content(2))
			m.publish(o)
			good := m.run()
			conn := m.rawSession(o)
			_, err := conn.Write(c(t))
			m.must(err)
			m.must(conn.CloseWrite())
			if said := wantClosed(t, conn); len(said) > 0 {
				var response helperwire.Response
				if err := helperwire.Read(bytes.NewReader(said), &response); err != nil || response.Error == nil {
					t.Errorf("was answered %q", said)
				}
			}
			m.wantSlot("b", make([]byte, imageSize))
			if _, err := m.install(good, o); err != nil {
				t.Errorf("the next session: %v", err)
			}
		})
	}
}

// What the helper asked to be fetched may lie, be endless, or never come.
func TestCourierThatLiesIsRefused(t *testing.T) {
	for name, answer := range map[string]helperwire.Request{
		"huge root":      {Verb: helperwire.StepFile, Raw: 1 << 40},
		"over the limit": {Verb: helperwire.StepFile, Raw: 512<<10 + 1},
		"other step":     {Verb: helperwire.StepFinish},
	} {
		m := newSlotted(t)
		m.run()
		conn := m.raw()
		_, err := conn.Write(mustFrame(t, helperwire.Request{Version: 1, Verb: helperwire.VerbInstall, Target: "releases/gw/stable/1.1.0.json"}))
		m.must(err)
		var response helperwire.Response
		m.must(helperwire.Read(conn, &response))
		if response.Want == nil || response.Want.Name != "2.root.json" {
			t.Fatalf("%s: answered %+v", name, response)
		}
		answer.Version = 1
		_, err = conn.Write(mustFrame(t, answer))
		m.must(err)
		m.must(helperwire.Read(bytes.NewReader(wantClosed(t, conn)), &response))
		if response.Error == nil {
			t.Errorf("%s: accepted", name)
		}
		m.halt()
	}
}

// Open files that come along with a request are not taken: a descriptor is the
// peer's, and so is what it points to.
func TestDescriptorsAreNotTaken(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	m.run()
	conn := m.rawSession(o)
	file, err := os.Open(os.DevNull)
	m.must(err)
	defer file.Close()
	before := openFiles(t)
	step := mustFrame(t, helperwire.Request{Version: 1, Verb: helperwire.StepIndex, Image: "none"})
	for range 50 {
		_, _, err := conn.WriteMsgUnix(step, unix.UnixRights(int(file.Fd())), nil)
		m.must(err)
		var response helperwire.Response
		m.must(helperwire.Read(conn, &response))
	}
	if after := openFiles(t); after > before+2 {
		t.Errorf("%d files were open before, %d after", before, after)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	return len(list)
}

func TestSecondSessionIsRefusedVerbsGoOn(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	c := m.run()
	i := m.open(c, o)
	_, err := c.Install(t.Context(), o.path, m.repo.Metadata())
	m.wantRule(err, "busy")
	_, err = c.Info(t.Context())
	m.must(err)
	i.Close()
	deadline := time.Now().Add(patience)
	for {
		if _, err = m.install(c, o); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// The helper ends although an agent sits in a session and says nothing.
func TestSilentSessionDoesNotHoldTheHelper(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	m.open(m.run(), o)
	m.halt() // fails the test when it takes too long
}
