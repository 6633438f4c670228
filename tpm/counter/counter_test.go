package counter_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func open(t *testing.T, p *tpmtest.Power, options ...tpm.Option) *tpm.TPM {
	t.Helper()
	chip, err := tpm.Open(t.Context(), "unix:"+p.Socket, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = chip.Close() })
	return chip
}

func define(t *tpm.TPM, key *ecdsa.PrivateKey, owner []byte) (r counter.Record, err error) {
	err = t.Do(context.Background(), "make counter", func(c *tpm.Chip) (err error) {
		r, err = counter.Define(c, key, counter.Index, owner)
		return err
	})
	return r, err
}

// defined is a connection, and a new counter with the key that raises it.
func defined(t *testing.T, p *tpmtest.Power) (*tpm.TPM, *ecdsa.PrivateKey, counter.Record) {
	t.Helper()
	chip, key := open(t, p), newKey(t)
	r, err := define(chip, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return chip, key, r
}

func read(t *tpm.TPM, r counter.Record) (v uint64, err error) {
	err = t.Do(context.Background(), "read counter", func(c *tpm.Chip) (err error) {
		v, err = counter.Read(c, r)
		return err
	})
	return v, err
}

func raise(t *tpm.TPM, key *ecdsa.PrivateKey, r counter.Record, delta uint64) (v uint64, err error) {
	err = t.Do(context.Background(), "raise counter", func(c *tpm.Chip) (err error) {
		v, err = counter.Raise(c, key, r, delta)
		return err
	})
	return v, err
}

func undefine(t *testing.T, raw transport.TPM) {
	t.Helper()
	public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(counter.Index)}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: counter.Index, Name: public.NVName},
	}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
}

// within runs raw commands on the same connection.
func within(t *testing.T, chip *tpm.TPM, fn func(raw transport.TPM)) {
	t.Helper()
	if err := chip.Do(t.Context(), "test", func(c *tpm.Chip) error { fn(c); return nil }); err != nil {
		t.Fatal(err)
	}
}

func wantAlarm(t *testing.T, err error, rule string) {
	t.Helper()
	var alarm *counter.Alarm
	if !errors.As(err, &alarm) || alarm.Rule != rule {
		t.Errorf("got %v, want alarm %q", err, rule)
	}
}

// TestCounterOnlyGoesUp, over power cuts, and Raise may be repeated.
func TestCounterOnlyGoesUp(t *testing.T) {
	machine, power := tpmtest.Start(t)
	chip, key, r := defined(t, power)
	for _, delta := range []uint64{1, 1, 3, 0, 2, 40} {
		before, err := read(chip, r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := raise(chip, key, r, delta)
		if want := max(before, r.Initial+delta); err != nil || got != want {
			t.Fatalf("raised to %d: %d %v, want %d", delta, got, err, want)
		}
		_ = power.Kill()
		power = tpmtest.PowerOn(t, machine)
		chip = open(t, power)
		if after, err := read(chip, r); err != nil || after != got {
			t.Fatalf("after a power cut %d %v, want %d", after, err, got)
		}
	}
	if _, err := raise(chip, key, r, 40+counter.MaxRaise+1); err == nil {
		t.Error("raised by more than allowed")
	}
	_ = chip.Close()
	if handles, err := power.Handles(); err != nil || len(handles) != 0 {
		t.Errorf("handles left: %x %v", handles, err)
	}
}

// TestDefineIsFinishedAfterAPowerCut at each of its commands.
func TestDefineIsFinishedAfterAPowerCut(t *testing.T) {
	for n := 1; ; n++ {
		machine, power := tpmtest.Start(t)
		key := newKey(t)
		faults := tpmtest.NewFaults(dial(t, power))
		faults.At(n, tpmtest.Cut(true))
		chip := tpm.New(faults)
		_, err := define(chip, key, nil)
		if ran := len(faults.Codes()); n > ran {
			if ran < 8 {
				t.Errorf("only %d commands", ran)
			}
			return
		}
		// What is cut while it flushes has done its work.
		if flushed := faults.Codes()[n-1] == tpm2.TPMCCFlushContext; flushed != (err == nil) {
			t.Fatalf("cut after command %d: %v", n, err)
		}
		_ = chip.Close()
		_ = power.Kill()
		power = tpmtest.PowerOn(t, machine)
		r, err := define(open(t, power), key, nil)
		if err != nil {
			t.Fatalf("cut after command %d: %v", n, err)
		}
		if _, err := raise(open(t, power), key, r, 1); err != nil {
			t.Fatalf("cut after command %d: %v", n, err)
		}
	}
}

func TestOnlyItsKeyRaisesTheCounter(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := open(t, power)
	r, err := define(chip, newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = raise(chip, newKey(t), r, 1)
	wantAlarm(t, err, "key")
	index := tpm2.NamedHandle{Handle: counter.Index, Name: tpm2.TPM2BName{Buffer: r.Name()}}
	within(t, chip, func(raw transport.TPM) {
		for name, auth := range map[string]tpm2.AuthHandle{
			"no password": {Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(nil)},
			"the owner":   {Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		} {
			if _, err := (tpm2.NVIncrement{AuthHandle: auth, NVIndex: index}).Execute(raw); err == nil {
				t.Errorf("%s increments it", name)
			}
		}
		session, closeSession, err := tpm2.PolicySession(raw, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = closeSession() }()
		_, err = tpm2.NVIncrement{AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: session}, NVIndex: index}.Execute(raw)
		if !errors.Is(err, tpm2.TPMRCPolicyFail) {
			t.Errorf("an empty policy: %v", err)
		}
	})
	if v, err := read(chip, r); err != nil || v != r.Initial {
		t.Errorf("it shows %d %v, began at %d", v, err, r.Initial)
	}
}

// TestDeletedOrRecreatedCounterIsAnAlarm: whoever holds the owner's authority can
// delete the index; he can't make it again so that it passes.
func TestDeletedOrRecreatedCounterIsAnAlarm(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, key, r := defined(t, power)
	top, err := raise(chip, key, r, 3)
	if err != nil {
		t.Fatal(err)
	}
	within(t, chip, func(raw transport.TPM) { undefine(t, raw) })
	_, err = read(chip, r)
	wantAlarm(t, err, "missing")
	_, err = raise(chip, key, r, 4)
	wantAlarm(t, err, "missing")

	// The same public area, as far as one can make it without the key.
	area, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](r.Public)
	if err != nil {
		t.Fatal(err)
	}
	area.Attributes.Written = false
	within(t, chip, func(raw transport.TPM) {
		_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, PublicInfo: tpm2.New2B(*area)}.Execute(raw)
		if err != nil {
			t.Fatal(err)
		}
	})
	_, err = read(chip, r)
	wantAlarm(t, err, "unwritten")
	within(t, chip, func(raw transport.TPM) { undefine(t, raw) })

	// One that he can write.
	other, err := define(chip, newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = read(chip, r)
	wantAlarm(t, err, "foreign")
	_, err = define(chip, key, nil)
	wantAlarm(t, err, "foreign")
	if other.Initial <= top {
		t.Errorf("a new counter began at %d, the old one stood at %d", other.Initial, top)
	}
}

func TestOwnerPasswordIsUsedAndItsLackIsSaid(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := open(t, power)
	within(t, chip, func(raw transport.TPM) {
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("owner")},
		}.Execute(raw)
		if err != nil {
			t.Fatal(err)
		}
	})
	key := newKey(t)
	for _, wrong := range []string{"", "other"} {
		if _, err := define(chip, key, []byte(wrong)); !errors.Is(err, tpm.ErrPolicy) {
			t.Errorf("password %q: %v", wrong, err)
		}
	}
	_ = chip.Close()
	chip = open(t, power, tpm.WithAuth(tpm.Auth{Owner: []byte("owner")}))
	r, err := define(chip, key, []byte("owner"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raise(chip, key, r, 1); err != nil {
		t.Error(err)
	}
	_ = chip.Close()
	if handles, err := power.Handles(); err != nil || len(handles) != 0 {
		t.Errorf("handles left: %x %v", handles, err)
	}
}

func TestAlteredRecordIsRefused(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := open(t, power)
	good, err := define(chip, newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good.Public {
		var r counter.Record
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		r.Public[i] ^= 1
		if _, err := read(chip, r); err == nil {
			t.Errorf("byte %d of the public area altered, and accepted", i)
		}
	}
	ahead := good
	ahead.Initial += 5
	_, err = read(chip, ahead)
	wantAlarm(t, err, "behind")
	for name, r := range map[string]counter.Record{"empty": {}, "other index": {Format: 1, Index: good.Index + 1, Public: good.Public}, "other format": {Format: 2, Index: good.Index, Public: good.Public}} {
		if r.Check() == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

func FuzzRecordNeverBreaksCheck(f *testing.F) {
	f.Add([]byte{1, 128, 103, 119, 0, 11, 34, 4, 0, 24, 0, 0, 0, 8}, uint32(counter.Index))
	f.Fuzz(func(t *testing.T, public []byte, index uint32) {
		r := counter.Record{Format: 1, Index: index, Public: public}
		if r.Check() != nil {
			return
		}
		area, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](public)
		if err != nil || uint32(area.NVIndex) != index {
			t.Fatalf("accepted a record about another index: %v", err)
		}
		if len(r.Name()) != len(tpmpolicy.Digest{})+2 {
			t.Fatal("a Name of another length")
		}
	})
}

// TestToolsReadTheSameCounter, and one that does not start at zero: chips start a
// counter above all that they ever counted.
func TestToolsReadTheSameCounter(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := open(t, power)
	for round := range 3 {
		key := newKey(t)
		r, err := define(chip, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		value, err := raise(chip, key, r, 2)
		if err != nil || value != r.Initial+2 || round > 0 && r.Initial < 3 {
			t.Fatalf("round %d: %d, began at %d: %v", round, value, r.Initial, err)
		}
		out, err := tpmtest.Tool(t, power.Socket, "", "tpm2_nvread", fmt.Sprintf("%#x", r.Index)).Output()
		if err != nil || len(out) != 8 || binary.BigEndian.Uint64(out) != value {
			t.Fatalf("the tools read %x %v, we %d", out, err, value)
		}
		within(t, chip, func(raw transport.TPM) { undefine(t, raw) })
	}
}
