package anchor_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"net"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/anchor"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestMain(m *testing.M) { tpmtest.Main(m) }

func head(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// gate is a connection whose bus somebody may hold.
type gate struct {
	*tpmtest.Faults
	tpm *tpm.TPM
}

func dial(t *testing.T, power *tpmtest.Power, options ...tpm.Option) gate {
	t.Helper()
	conn, err := net.Dial("unix", power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	faults := tpmtest.NewFaults(transport.FromReadWriteCloser(conn))
	chip := tpm.New(faults, options...)
	t.Cleanup(func() { _ = chip.Close() })
	return gate{faults, chip}
}

func (g gate) do(fn func(c *tpm.Chip) (anchor.Record, error)) (r anchor.Record, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	err = g.tpm.Do(ctx, "test anchor", func(c *tpm.Chip) (err error) {
		r, err = fn(c)
		return err
	})
	return r, err
}

func (g gate) begin(owner []byte) (anchor.Record, error) {
	return g.do(func(c *tpm.Chip) (anchor.Record, error) { return anchor.Begin(c, owner) })
}

func (g gate) check(r anchor.Record) (anchor.Record, error) {
	return g.do(func(c *tpm.Chip) (anchor.Record, error) { return anchor.Check(c, r) })
}

func (g gate) extend(r anchor.Record) (anchor.Record, error) {
	return g.do(func(c *tpm.Chip) (anchor.Record, error) { return anchor.Extend(c, r) })
}

func begin(t *testing.T, chip gate) anchor.Record {
	t.Helper()
	r, err := chip.begin(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func extend(t *testing.T, chip gate, r anchor.Record, index uint64) anchor.Record {
	t.Helper()
	next, err := chip.extend(r.With(index, head(fmt.Sprint(index))))
	if err != nil || next.Last.Index != index || next.Next != nil {
		t.Fatalf("anchored %d: %+v, %v", index, next, err)
	}
	return next
}

func wantAlarm(t *testing.T, err error, rule string) {
	t.Helper()
	var alarm *anchor.Alarm
	if !errors.As(err, &alarm) || alarm.Rule != rule {
		t.Errorf("got %v, want alarm %q", err, rule)
	}
}

func undefine(t *testing.T, chip gate) {
	t.Helper()
	public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(anchor.Index)}.Execute(chip)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: anchor.Index, Name: public.NVName},
	}.Execute(chip)
	if err != nil {
		t.Fatal(err)
	}
}

// TestAnOldCopyIsFoundOut, after power cuts too: every record but the last is refused.
func TestAnOldCopyIsFoundOut(t *testing.T) {
	machine, power := tpmtest.Start(t)
	chip := dial(t, power)
	records := []anchor.Record{begin(t, chip)}
	for i := uint64(1); i <= 4; i++ {
		records = append(records, extend(t, chip, records[len(records)-1], 10*i))
		_ = power.Kill()
		power = tpmtest.PowerOn(t, machine)
		chip = dial(t, power)
	}
	last := records[len(records)-1]
	if again, err := chip.check(last); err != nil || again.Last.Index != 40 || !bytes.Equal(again.Last.Head, head("40")) {
		t.Errorf("the last: %+v %v", again, err)
	}
	for _, old := range records[:len(records)-1] {
		_, err := chip.check(old)
		wantAlarm(t, err, "moved")
		_, err = chip.check(old.With(41, head("41")))
		wantAlarm(t, err, "moved")
	}
	out, err := tpmtest.Tool(t, power.Socket, "", "tpm2_nvread", fmt.Sprintf("%#x", anchor.Index)).Output()
	if err != nil || !bytes.Equal(out, last.Last.Value) {
		t.Errorf("the tools read %x %v", out, err)
	}
	for _, damaged := range []anchor.Record{{}, {Format: 1}, {Format: 2, Last: last.Last}} {
		_, err := chip.check(damaged)
		wantAlarm(t, err, "record")
	}
}

// TestPowerCutAtEachCommandOfAnExtendIsSettled by the record that was stored before.
func TestPowerCutAtEachCommandOfAnExtendIsSettled(t *testing.T) {
	for n := 1; n <= 4; n++ {
		for _, after := range []bool{false, true} {
			_, power := tpmtest.Start(t)
			chip := dial(t, power)
			r := extend(t, chip, begin(t, chip), 1)
			stored := r.With(2, head("2"))
			chip.At(n, tpmtest.Cut(after))
			if _, err := chip.extend(stored); err == nil {
				t.Fatalf("a cut at command %d went unseen", n)
			}
			settled, err := dial(t, power).check(stored)
			done := n > 2 || n == 2 && after
			if err != nil || settled.Next != nil || (settled.Last.Index == 2) != done {
				t.Errorf("cut at command %d, after it %v: %+v %v", n, after, settled.Last.Index, err)
			}
			extend(t, dial(t, power), settled, 3)
		}
	}
}

// TestDeletedOrForeignAnchorIsAnAlarm; made again it holds nothing of before.
func TestDeletedOrForeignAnchorIsAnAlarm(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := dial(t, power)
	r := extend(t, chip, begin(t, chip), 7)
	undefine(t, chip)
	_, err := chip.check(r)
	wantAlarm(t, err, "missing")
	_, err = chip.extend(r.With(8, head("8")))
	wantAlarm(t, err, "missing")
	begin(t, chip)
	_, err = chip.check(r)
	wantAlarm(t, err, "moved")
	undefine(t, chip)
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	area := tpm2.TPMSNVPublic{
		NVIndex: anchor.Index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 32,
		Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTExtend},
	}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(area)}).Execute(chip); err != nil {
		t.Fatal(err)
	}
	_, err = chip.check(r)
	wantAlarm(t, err, "unwritten")
	undefine(t, chip)
	ordinary := tpm2.TPMSNVPublic{
		NVIndex: anchor.Index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 32,
		Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
	}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(ordinary)}).Execute(chip); err != nil {
		t.Fatal(err)
	}
	_, err = chip.check(r)
	wantAlarm(t, err, "foreign")
	if _, err := chip.begin(nil); err == nil {
		t.Error("an index that can be written is no anchor")
	}
}

// TestOwnerPasswordMakesTheAnchor, and the storage key that its sessions are salted to.
func TestOwnerPasswordMakesTheAnchor(t *testing.T) {
	_, power := tpmtest.Start(t)
	chip := dial(t, power)
	_, err := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("secret")},
	}.Execute(chip)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"", "wrong"} {
		if _, err := chip.begin([]byte(wrong)); !errors.Is(err, tpm.ErrPolicy) {
			t.Errorf("with %q: %v", wrong, err)
		}
	}
	chip = dial(t, power, tpm.WithAuth(tpm.Auth{Owner: []byte("secret")}))
	r, err := chip.begin([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	extend(t, chip, r, 1)
	_ = chip.tpm.Close()
	if left, err := power.Handles(); err != nil || len(left) != 0 {
		t.Errorf("left in the chip: %x %v", left, err)
	}
}

// A log anchors its end now and then; at its next start it checks that nothing is
// missing up to there. The record is stored before the chip is extended.
func ExampleExtend() {
	ctx := context.Background()
	chip, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		log.Fatal(err)
	}
	defer chip.Close()
	err = chip.Do(ctx, "anchor log", func(c *tpm.Chip) error {
		record, err := anchor.Begin(c, nil)
		if err != nil {
			return err
		}
		end := sha256.Sum256([]byte("all entries"))
		record = record.With(17, end[:])
		// ... store the record ...
		record, err = anchor.Extend(c, record)
		log.Printf("anchored up to entry %d", record.Last.Index)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}
