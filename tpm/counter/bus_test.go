package counter_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// times is a tenth of n, or all of it where counts are run in full.
func times(n int) int {
	if os.Getenv("GATEWARDEN_LONG") != "" {
		return n
	}
	return n / 10
}

func through(t *testing.T, p *tpmtest.Power) (*tpm.TPM, *tpmtest.Faults) {
	t.Helper()
	faults := tpmtest.NewFaults(dial(t, p))
	chip := tpm.New(faults)
	t.Cleanup(func() { _ = chip.Close() })
	return chip, faults
}

// TestWhoAltersTheBusShowsNoOtherValue: a bit changed at any place of any command or
// answer of Read and Raise gives an error, an alarm, or the value that the chip holds.
func TestWhoAltersTheBusShowsNoOtherValue(t *testing.T) {
	_, power := tpmtest.Start(t)
	honest, faults := through(t, power)
	key := newKey(t)
	r, err := define(honest, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	faults.Reset()
	if _, err := raise(honest, key, r, 1); err != nil {
		t.Fatal(err)
	}
	commands := len(faults.Codes()) + 2 // this connection knew the storage key
	counts := make(map[string]int)
	for i := range times(1000) {
		n, fault := 1+i%commands, tpmtest.FlipBit(29*i, i%8, i/commands%2 == 1)
		before, err := read(honest, r)
		if err != nil {
			t.Fatal(err)
		}
		chip, faults := through(t, power)
		faults.At(n, fault)
		shown, err := raise(chip, key, r, before-r.Initial+uint64(i%2))
		faults.Clear()
		_ = chip.Close()
		after, readErr := read(honest, r)
		switch {
		case readErr != nil || after < before || after > before+1:
			t.Fatalf("command %d: it stood at %d, now %d: %v", n, before, after, readErr)
		case err != nil:
			counts["error"]++
		case shown != after:
			t.Fatalf("command %d: shown %d, it stands at %d", n, shown, after)
		default:
			counts["true"]++
		}
	}
	t.Logf("%v", counts)
	if counts["error"] == 0 || counts["true"] == 0 {
		t.Errorf("nothing was altered, or everything: %v", counts)
	}
}

// forge answers TPM2_NV_Read with a value of its own and all that one can compute who
// does not know the session's salt.
func forge(value uint64) func(command, answer []byte) []byte {
	return func(command, _ []byte) []byte {
		nonceCaller := command[26 : 26+16] // header, two handles, size, session, size of the nonce
		parameters := binary.BigEndian.AppendUint64([]byte{0, 8}, value)
		rp := sha256.New()
		rp.Write([]byte{0, 0, 0, 0, 0, 0, 1, 0x4e})
		rp.Write(parameters)
		nonceTPM := make([]byte, 16)
		mac := hmac.New(sha256.New, nil)
		mac.Write(rp.Sum(nil))
		mac.Write(nonceTPM)
		mac.Write(nonceCaller)
		mac.Write([]byte{0})
		body := binary.BigEndian.AppendUint32(nil, uint32(len(parameters)))
		body = append(append(append(body, parameters...), 0, 16), nonceTPM...)
		body = append(append(body, 0, 0, 32), mac.Sum(nil)...)
		answer := binary.BigEndian.AppendUint32([]byte{0x80, 2}, uint32(10+len(body)))
		return append(append(answer, 0, 0, 0, 0), body...)
	}
}

// TestForgedOrReplayedValueIsRefused: the bus shows an old answer of the chip, or one
// made for the purpose. A record without the pinned key believes the simplest lie.
func TestForgedOrReplayedValueIsRefused(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip, key, r := defined(t, power)
	wire := &liar{next: dial(t, power)}
	bus := tpm.New(wire)
	t.Cleanup(func() { _ = bus.Close() })
	if _, err := read(bus, r); err != nil {
		t.Fatal(err)
	}
	old := wire.seen
	value, err := raise(chip, key, r, 2)
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(command, answer []byte) []byte{
		"forged":   forge(value + 7),
		"replayed": func(_, _ []byte) []byte { return old },
		"without session": func(_, _ []byte) []byte {
			return append([]byte{0x80, 1, 0, 0, 0, 20, 0, 0, 0, 0, 0, 8}, binary.BigEndian.AppendUint64(nil, value+7)...)
		},
	} {
		wire.lie = lie
		if got, err := read(bus, r); err == nil {
			t.Errorf("%s: shown %d, it stands at %d", name, got, value)
		}
	}
	wire.lie = nil
	if got, err := read(bus, r); err != nil || got != value {
		t.Errorf("the truth: %d %v", got, err)
	}
	unpinned := r
	unpinned.Storage = nil
	wire.lie = func(_, answer []byte) []byte {
		binary.BigEndian.PutUint64(answer[16:], value+7)
		return answer
	}
	if got, err := read(bus, unpinned); err != nil || got != value+7 {
		t.Errorf("the lie is not told: %d %v", got, err)
	}
	if pinned, err := pin(bus, unpinned); err != nil || string(pinned.Storage) != string(r.Storage) {
		t.Errorf("pinned %x, not %x: %v", pinned.Storage, r.Storage, err)
	}
}

// TestCounterOfAnotherStorageKeyIsAnAlarm: the pinned key is the chip's and no other.
func TestCounterOfAnotherStorageKeyIsAnAlarm(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := open(t, power)
	r, err := define(chip, newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Storage[5] ^= 1
	_, err = read(chip, r)
	wantAlarm(t, err, "replaced")
}

func pin(t *tpm.TPM, r counter.Record) (pinned counter.Record, err error) {
	err = t.Do(context.Background(), "pin counter", func(c *tpm.Chip) (err error) {
		pinned, err = counter.Pin(c, r)
		return err
	})
	return pinned, err
}

// liar holds the bus: it alters what TPM2_NV_Read answers.
type liar struct {
	next interface{ Send([]byte) ([]byte, error) }
	lie  func(command, answer []byte) []byte
	seen []byte
}

func (l *liar) Send(command []byte) ([]byte, error) {
	answer, err := l.next.Send(command)
	if err != nil || binary.BigEndian.Uint32(command[6:]) != uint32(tpm2.TPMCCNVRead) {
		return answer, err
	}
	l.seen = append([]byte(nil), answer...)
	if l.lie != nil {
		answer = l.lie(command, answer)
	}
	return answer, nil
}

// TestSilentBusEndsWithTheContext at every command of a raise.
func TestSilentBusEndsWithTheContext(t *testing.T) {
	_, power := tpmtest.Start(t)
	_, key, r := defined(t, power)
	probe, commands := through(t, power)
	if _, err := raise(probe, key, r, 1); err != nil {
		t.Fatal(err)
	}
	for n := range commands.Codes() {
		chip, faults := through(t, power)
		release := make(chan struct{})
		faults.At(n+1, tpmtest.Stall(release))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := chip.Do(ctx, "raise counter", func(c *tpm.Chip) error {
			_, err := counter.Raise(c, key, r, uint64(n)+2)
			return err
		})
		cancel()
		close(release)
		if err == nil && faults.Codes()[n] != tpm2.TPMCCFlushContext || err != nil && !errors.Is(err, tpm.ErrBusy) {
			t.Errorf("silent at command %d: %v", n+1, err)
		}
	}
}
