package update

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Written by release 0.1; it must load for ever, with nothing lost.
func TestRecordOfFormat1Loads(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "compat", "record-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r Record
	if err := decodeRecord(data, &r); err != nil {
		t.Fatal(err)
	}
	j := r.Now
	if r.State != Confirming || j.Release != "2.0.0" || j.Old != "a" || j.Trials != 1 || j.Since != 12*time.Second ||
		j.Before.Checks["disk"] != "ok" || j.Confirm.Timeout != 600 || len(r.Blocked) != 1 || r.History[0].Outcome != wire.UpdateRolledBack || r.Refused == "" {
		t.Errorf("read %+v", r)
	}
	again, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := errors.Join(json.Unmarshal(data, &want), json.Unmarshal(again, &got)); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if !bytes.Equal(a, b) {
		t.Errorf("something was lost:\n%s\n%s", a, b)
	}
}

// TestRecordOfALaterReleaseKeepsWhatItBlocks: that failed on trial, and wrote more than
// this one knows. Taken for damage, its outcome would be lost and it be tried again.
func TestRecordOfALaterReleaseKeepsWhatItBlocks(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "compat", "record-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	var now, later Record
	more := bytes.ReplaceAll(data, []byte(`"trials"`), []byte(`"of_a_later_release":[{}],"trials"`))
	more = bytes.Replace(more, []byte("{"), []byte(`{"of_a_later_release":1,`), 1)
	if err := errors.Join(decodeRecord(data, &now), decodeRecord(more, &later)); err != nil {
		t.Fatal(err)
	}
	if bytes.Count(more, []byte("later_release")) < 2 || !reflect.DeepEqual(now, later) {
		t.Errorf("read %+v of %s", later, more)
	}
}

func TestRecordOfALaterFormatIsLeftAlone(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	later := []byte(`{"v":2,"state":"dancing"}`)
	m.must(os.MkdirAll(m.path("state/update"), 0o700))
	m.write("state/update/record.json", later)
	e := &Engine{cfg: Config{FS: &fsx.FS{}, Dir: m.path("state/update")}}
	if err := e.load(); err == nil {
		t.Error("it was taken for one of ours")
	}
	if data, err := os.ReadFile(m.path("state/update/record.json")); err != nil || !bytes.Equal(data, later) {
		t.Errorf("it is now %s, %v", data, err)
	}
}

// A record that is lost while a release runs on trial: nobody can tell any more
// whether it is as good as before.
func TestTrialWithoutARecordGoesBack(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"truncated": func(d []byte) []byte { return d[:len(d)/2] },
		"zeroed":    func(d []byte) []byte { return make([]byte, len(d)) },
		"flipped":   func(d []byte) []byte { d[3] ^= 0x10; return d },
		"empty":     func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.publish(author("2.0.0"), m.image("2.0.0", 4))
			m.life(func() bool { return false }) // until it goes down for the trial
			data, err := os.ReadFile(m.path("state/update/record.json"))
			m.must(err)
			m.write("state/update/record.json", damage(data))
			m.life(func() bool { return false }) // the trial, until it goes down again
			if m.running != "2.0.0" {
				t.Fatalf("%s was on trial", m.running)
			}
			m.life(func() bool { return len(m.outcomes()) > 0 })
			m.wantOutcome(wire.UpdateRolledBack, "record", "1.0.0")
		})
	}
}

func FuzzRecord(f *testing.F) {
	data, err := os.ReadFile(filepath.Join("testdata", "compat", "record-v1.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"v":1,"state":"idle"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Record
		if err := decodeRecord(data, &r); err != nil {
			if !errors.Is(err, fsx.ErrDamaged) {
				t.Errorf("%v is no damage", err)
			}
			return
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var again Record
		if err := decodeRecord(text, &again); err != nil {
			t.Fatalf("what was read can't be read again: %v\n%s", err, text)
		}
	})
}
