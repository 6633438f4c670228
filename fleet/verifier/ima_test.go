package verifier_test

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/evidence"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// runs has the machine of c measure files, as its kernel would.
func (c *court) runs(list string, names ...string) {
	c.Helper()
	field := func(data string) string {
		return string(binary.LittleEndian.AppendUint32(nil, uint32(len(data)))) + data
	}
	f, err := os.OpenFile(list, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	c.must(err)
	defer f.Close()
	for _, name := range names {
		digest := sha256.Sum256([]byte(name))
		data := field("sha256:\x00"+string(digest[:])) + field(name+"\x00")
		sum := sha1.Sum([]byte(data))
		_, err := f.WriteString("\x0a\x00\x00\x00" + string(sum[:]) + field("ima-ng") + field(data))
		c.must(err)
		c.must(c.power.Extend(c.Context(), 10, sha256.Sum256([]byte(data))))
	}
}

func (c *court) evidenceWithIMA(challenge wire.Challenge, list string, keys ...string) attest.Evidence {
	c.Helper()
	collector, err := evidence.New(evidence.Config{
		TPM: c.tpm, AK: c.ak, Fleet: fleetID, Device: deviceID, Claims: func() attest.Claims { return attest.Claims{Version: 1, Software: "1"} },
		Logs: func(context.Context) (*os.File, *os.File, error) {
			log, err := os.Open(c.log)
			if err != nil {
				return nil, nil, err
			}
			ima, err := os.Open(list)
			return log, ima, err
		},
	})
	c.must(err)
	ev, err := collector.Collect(c.Context(), challenge, keys...)
	c.must(err)
	return ev
}

func TestIMAListTravelsOnceAndIsJudgedByTheAllowList(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	list := filepath.Join(t.TempDir(), "ima")
	var allowed strings.Builder
	for _, name := range []string{"/usr/bin/a", "/usr/bin/b", "/usr/bin/c"} {
		fmt.Fprintf(&allowed, "%x  %s\n", sha256.Sum256([]byte(name)), name)
	}
	c.files = allowed.String()
	restart := func() { c.verifier = c.newVerifier() }
	judge := func(sent int64) string {
		t.Helper()
		challenge := c.challenge()
		ev := c.evidenceWithIMA(challenge, list, key(deviceID))
		if int64(len(ev.IMALog.Bytes)) != sent {
			t.Fatalf("%d bytes of the IMA list were sent, want %d", len(ev.IMALog.Bytes), sent)
		}
		v, err := c.verifier.Appraise(t.Context(), deviceID, full, ev)
		c.must(err)
		for _, line := range v.Explanation {
			if strings.Contains(line, "IMA") {
				return line
			}
		}
		return ""
	}
	size := func() int64 {
		info, err := os.Stat(list)
		c.must(err)
		return info.Size()
	}
	restart()
	c.runs(list, "/usr/bin/a", "/usr/bin/b")
	before := size()
	if line := judge(before); !strings.Contains(line, "2 entries") {
		t.Error(line)
	}
	c.runs(list, "/usr/bin/c")
	restart()
	if line := judge(size() - before); !strings.Contains(line, "3 entries") {
		t.Error(line)
	}
	c.must(os.Remove(list))
	c.reboot(goodLine) // the list begins anew: the device notices, and sends all
	c.runs(list, "/usr/bin/b", "/usr/bin/evil")
	if line := judge(size()); !strings.Contains(line, "one file without leave: /usr/bin/evil") {
		t.Error(line)
	}
}

func TestLongIMAListIsAskedForInParts(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	full := c.certify(deviceID)
	list := filepath.Join(t.TempDir(), "ima")
	long := "/" + strings.Repeat("long/", 6000)
	for n := range 80 {
		c.runs(list, fmt.Sprintf("%s%d", long, n))
	}
	for round, unfinished := range []bool{true, false} {
		ev := c.evidenceWithIMA(c.challenge(), list, key(deviceID))
		if ev.IMALog.Offset == 0 != (round == 0) {
			t.Errorf("round %d begins at byte %d", round, ev.IMALog.Offset)
		}
		_, err := c.verifier.Appraise(t.Context(), deviceID, full, ev)
		c.must(err)
		more, err := c.verifier.Unfinished(t.Context(), deviceID)
		c.must(err)
		if more != unfinished {
			t.Errorf("round %d: more is to come: %t", round, more)
		}
	}
}
