package evidence

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// witness is a collector on a real chip with two log files.
type witness struct {
	*Collector
	power     *tpmtest.Power
	faults    *tpmtest.Faults
	boot, ima string // paths; no file: the machine has none
	asked     int    // times that the logs were opened
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	_, power := tpmtest.Start(t)
	conn, err := net.Dial("unix", power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := &witness{power: power, boot: filepath.Join(dir, "boot"), ima: filepath.Join(dir, "ima")}
	w.faults = tpmtest.NewFaults(transport.FromReadWriteCloser(conn))
	chip := tpm.New(w.faults)
	t.Cleanup(func() { chip.Close() })
	ak, err := chip.CreateKey(t.Context(), tpm.AK)
	if err != nil {
		t.Fatal(err)
	}
	open := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		return f
	}
	w.Collector, err = New(Config{
		TPM: chip, AK: ak, Fleet: "lab", Device: "gw-aaaaaaaaaaaaaaaa", Claims: func() attest.Claims { return attest.Claims{Version: 1} },
		Logs: func(context.Context) (*os.File, *os.File, error) {
			w.asked++
			return open(w.boot), open(w.ima), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func challenge() wire.Challenge {
	return wire.Challenge{Nonce: bytes.Repeat([]byte{7}, wire.NonceSize)}
}

func (w *witness) quotes() (n int) {
	for _, code := range w.faults.Codes() {
		if code == tpm2.TPMCCQuote {
			n++
		}
	}
	return n
}

func (w *witness) write(t *testing.T, path string, size int) []byte {
	t.Helper()
	data := bytes.Repeat([]byte{1}, size)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return data
}

func belongTogether(ev attest.Evidence) bool {
	h := sha256.New()
	for _, pcr := range attest.Selection() {
		value := ev.PCRs[pcr]
		h.Write(value[:])
	}
	return bytes.HasSuffix(ev.Quote, h.Sum(nil))
}

func TestAttestationCostsOneQuote(t *testing.T) {
	w := newWitness(t)
	w.faults.Reset()
	ev, err := w.Collect(t.Context(), challenge(), "key")
	if err != nil {
		t.Fatal(err)
	}
	if w.quotes() != 1 || len(w.faults.Codes()) > 4 {
		t.Errorf("TPM commands: %v", w.faults.Codes())
	}
	if !belongTogether(ev) || len(ev.PCRs) != len(attest.Selection()) {
		t.Error("PCR values are not those that were quoted")
	}
	qualifying := attest.QualifyingData("lab", "gw-aaaaaaaaaaaaaaaa", ev.Nonce, ev.Claims)
	if !bytes.Contains(ev.Quote, qualifying) {
		t.Error("the quote does not carry fleet, device, nonce and claims")
	}
	if !ev.EventLog.Digest.IsZero() || !ev.IMALog.Digest.IsZero() {
		t.Error("a machine without logs has some")
	}
}

func TestAttestationIsOneCommandWhileNoPCRChanges(t *testing.T) {
	w := newWitness(t)
	if _, err := w.Collect(t.Context(), challenge(), "key"); err != nil {
		t.Fatal(err)
	}
	w.faults.Reset()
	ev, err := w.Collect(t.Context(), challenge(), "key")
	if err != nil || !belongTogether(ev) || len(w.faults.Codes()) != 1 {
		t.Errorf("TPM commands %v, error %v", w.faults.Codes(), err)
	}
	if err := w.power.Extend(t.Context(), 10, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	if ev, err = w.Collect(t.Context(), challenge(), "key"); err != nil || !belongTogether(ev) {
		t.Errorf("after a PCR changed: belong together %t, error %v", belongTogether(ev), err)
	}
}

func TestPCRThatChangesBetweenQuoteAndReadingIsQuotedAgain(t *testing.T) {
	w := newWitness(t)
	meddle := func(next transport.TPM, command []byte) ([]byte, error) {
		if err := w.power.Extend(context.Background(), 10, [32]byte{1}); err != nil {
			return nil, err
		}
		return next.Send(command)
	}
	w.faults.On(tpm2.TPMCCPCRRead, 1, meddle)
	w.faults.Reset()
	ev, err := w.Collect(t.Context(), challenge(), "key")
	if err != nil || !belongTogether(ev) || w.quotes() != 2 {
		t.Errorf("%d quotes, error %v", w.quotes(), err)
	}
	w.faults.On(tpm2.TPMCCQuote, -1, meddle)
	w.faults.On(tpm2.TPMCCPCRRead, -1, meddle)
	w.faults.Reset()
	if _, err = w.Collect(t.Context(), challenge(), "key"); err == nil || w.quotes() != attempts {
		t.Errorf("PCRs that never rest: %d quotes, error %v", w.quotes(), err)
	}
}

func TestLogsTravelByDigestOnlyWhereTheFleetHoldsThem(t *testing.T) {
	w := newWitness(t)
	log := w.write(t, w.boot, 1000)
	list := w.write(t, w.ima, 500)
	digest := sha256.Sum256(log)
	for name, held := range map[string]string{"nothing": "", "another": hex.EncodeToString(make([]byte, 32)), "this one": hex.EncodeToString(digest[:])} {
		c := challenge()
		c.EventLog = held
		ev, err := w.Collect(t.Context(), c, "key")
		if err != nil {
			t.Fatal(err)
		}
		if whole := bytes.Equal(ev.EventLog.Bytes, log) && ev.EventLog.Offset == 0; whole == (name == "this one") {
			t.Errorf("the fleet holds %s: %d bytes from %d were sent", name, len(ev.EventLog.Bytes), ev.EventLog.Offset)
		}
		if ev.EventLog.Digest != digest || !bytes.Equal(ev.IMALog.Bytes, list) {
			t.Errorf("the fleet holds %s: digest %x, %d bytes of IMA list", name, ev.EventLog.Digest, len(ev.IMALog.Bytes))
		}
	}
	// The IMA list grows; the firmware's log was read once and does not.
	list = w.write(t, w.ima, 800)
	w.write(t, w.boot, 10)
	ev, err := w.Collect(t.Context(), challenge(), "key")
	if err != nil || !bytes.Equal(ev.IMALog.Bytes, list) || !bytes.Equal(ev.EventLog.Bytes, log) {
		t.Errorf("later: %d bytes of IMA list, %d of log, %v", len(ev.IMALog.Bytes), len(ev.EventLog.Bytes), err)
	}
	if w.asked != 1 {
		t.Errorf("the helper was asked %d times for the same logs", w.asked)
	}
}

func TestIMAListGoesOnWhereTheFleetHoldsIt(t *testing.T) {
	w := newWitness(t)
	list := make([]byte, wire.MaxIMALog+1000)
	for i := range list {
		list[i] = byte(i >> 8)
	}
	if err := os.WriteFile(w.ima, list, 0o600); err != nil {
		t.Fatal(err)
	}
	whole, half := sha256.Sum256(list), sha256.Sum256(list[:1000])
	for name, c := range map[string]struct {
		held        *wire.Held
		offset, end int
	}{
		"nothing":                      {nil, 0, wire.MaxIMALog},
		"the begin":                    {&wire.Held{Size: 1000, Digest: hex.EncodeToString(half[:])}, 1000, len(list)},
		"all":                          {&wire.Held{Size: int64(len(list)), Digest: hex.EncodeToString(whole[:])}, len(list), len(list)},
		"the list of an earlier boot":  {&wire.Held{Size: 999, Digest: hex.EncodeToString(half[:])}, 0, wire.MaxIMALog},
		"more than there is":           {&wire.Held{Size: 1 << 40, Digest: hex.EncodeToString(whole[:])}, 0, wire.MaxIMALog},
		"a size that makes no sense":   {&wire.Held{Size: -5, Digest: hex.EncodeToString(half[:])}, 0, wire.MaxIMALog},
		"nothing, said in other words": {&wire.Held{}, 0, wire.MaxIMALog},
	} {
		asked := challenge()
		asked.IMALog = c.held
		ev, err := w.Collect(t.Context(), asked, "key")
		if err != nil {
			t.Fatal(err)
		}
		if l := ev.IMALog; l.Offset != int64(c.offset) || !bytes.Equal(l.Bytes, list[c.offset:c.end]) || l.Digest != whole {
			t.Errorf("the fleet holds %s: %d bytes from %d, digest right %t", name, len(l.Bytes), l.Offset, l.Digest == whole)
		}
	}
}

func TestWhatCannotBeAnsweredIsRefused(t *testing.T) {
	w := newWitness(t)
	for _, nonce := range [][]byte{nil, make([]byte, 31), make([]byte, 33), make([]byte, 1<<20)} {
		w.faults.Reset()
		if _, err := w.Collect(t.Context(), wire.Challenge{Nonce: nonce}, "key"); err == nil || w.quotes() != 0 {
			t.Errorf("nonce of %d bytes: %d quotes, error %v", len(nonce), w.quotes(), err)
		}
	}
	w.write(t, w.boot, wire.MaxEventLog+1)
	if _, err := w.Collect(t.Context(), challenge(), "key"); err == nil || !strings.Contains(err.Error(), "event log: longer than") {
		t.Errorf("event log too long: %v", err)
	}
	w.write(t, w.boot, wire.MaxEventLog)
	if _, err := w.Collect(t.Context(), challenge(), "key"); err != nil {
		t.Errorf("event log as long as it may be: %v", err)
	}
}

func TestLogsAreAskedForAgainAfterAFailure(t *testing.T) {
	w := newWitness(t)
	w.write(t, w.ima, 100)
	give := w.Logs
	gone := errors.New("the helper is not there")
	w.Logs = func(context.Context) (*os.File, *os.File, error) { return nil, nil, gone }
	if _, err := w.Collect(t.Context(), challenge(), "key"); !errors.Is(err, gone) {
		t.Errorf("no helper: %v", err)
	}
	w.Logs = give
	if _, err := w.Collect(t.Context(), challenge(), "key"); err != nil {
		t.Fatal(err)
	}
	w.Collector.ima.Close() // as if reading failed
	if _, err := w.Collect(t.Context(), challenge(), "key"); err == nil {
		t.Error("a list that can't be read gave evidence")
	}
	if ev, err := w.Collect(t.Context(), challenge(), "key"); err != nil || len(ev.IMALog.Bytes) != 100 || w.asked != 2 {
		t.Errorf("asked %d times, %d bytes, %v", w.asked, len(ev.IMALog.Bytes), err)
	}
}
