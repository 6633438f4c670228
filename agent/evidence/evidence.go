// Package evidence answers challenges: it gathers the boot logs, states the
// claims and has the TPM quote both, with exactly one signature. Without a TPM the
// first key signs the claims, which say so.
package evidence

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

// Config of a Collector. All fields are required; First in the place of TPM and AK
// where there is no TPM.
type Config struct {
	TPM    *tpm.TPM
	AK     *tpm.Key
	First  crypto.Signer
	Fleet  string
	Device string
	Claims func() attest.Claims // as they are now, but for Keys
	// Logs opens the event log and the IMA list; nil for one that the machine has not.
	Logs func(ctx context.Context) (eventLog, ima *os.File, err error)
}

// Collector is safe for concurrent use.
type Collector struct {
	Config

	mu          sync.Mutex
	pcrs        map[int]attest.Digest // as read last; nil at first
	opened      bool                  // what follows is set
	eventLog    []byte
	eventDigest attest.Digest
	ima         *os.File // nil where the machine has none
}

// New checks c.
func New(c Config) (*Collector, error) {
	if (c.First == nil) != (c.TPM != nil && c.AK != nil) || c.Fleet == "" || c.Device == "" || c.Claims == nil || c.Logs == nil {
		return nil, errors.New("evidence: incomplete configuration")
	}
	return &Collector{Config: c}, nil
}

// attempts is how often PCRs are quoted again because one was extended between
// the quote and the reading.
const attempts = 3

// Collect answers challenge. keys are the SPKI hashes of the operational keys to claim: that of the
// channel which carries the evidence, or the one that a ticket is for.
func (c *Collector) Collect(ctx context.Context, challenge wire.Challenge, keys ...string) (attest.Evidence, error) {
	if len(challenge.Nonce) != wire.NonceSize {
		return attest.Evidence{}, fmt.Errorf("challenge has a nonce of %d bytes, want %d", len(challenge.Nonce), wire.NonceSize)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	stated := c.Claims()
	stated.Keys, stated.SoftwareKeys = keys, c.First != nil
	claims, err := json.Marshal(stated)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("encode claims: %w", err)
	}
	ev := attest.Evidence{Version: 1, Nonce: challenge.Nonce, Claims: claims}
	if c.First != nil {
		ev.Signature, err = c.First.Sign(nil, attest.SoftwareStatement(c.Fleet, c.Device, challenge.Nonce, claims), crypto.SHA256)
		return ev, err
	}
	if err := c.quote(ctx, &ev, attest.QualifyingData(c.Fleet, c.Device, challenge.Nonce, claims)); err != nil {
		return attest.Evidence{}, err
	}
	if err := c.addLogs(ctx, &ev, challenge); err != nil {
		return attest.Evidence{}, err
	}
	return ev, nil
}

// quote fills in quote and PCR values that belong together. While no PCR changes,
// the quote is the only command.
func (c *Collector) quote(ctx context.Context, ev *attest.Evidence, qualifying []byte) error {
	for range attempts {
		var err error
		if ev.Quote, ev.Signature, err = c.TPM.Quote(ctx, c.AK, qualifying, attest.Selection()); err != nil {
			return fmt.Errorf("quote: %w", err)
		}
		if !quoted(ev.Quote, c.pcrs) {
			values, err := c.TPM.ReadPCRs(ctx, attest.Selection())
			if err != nil {
				return fmt.Errorf("read PCRs: %w", err)
			}
			c.pcrs = make(map[int]attest.Digest, len(values))
			for pcr, value := range values {
				c.pcrs[pcr] = value
			}
		}
		if quoted(ev.Quote, c.pcrs) {
			ev.PCRs = maps.Clone(c.pcrs)
			return nil
		}
	}
	return errors.New("quote: PCRs change faster than they can be read")
}

// quoted says whether quote is of these values: a TPMS_ATTEST of a quote ends with
// their digest (part 2, 10.12.1 and 10.12.12).
func quoted(quote []byte, pcrs map[int]attest.Digest) bool {
	if len(pcrs) == 0 { // else values never read would stand for a chip of zeros
		return false
	}
	digest := sha256.New()
	for _, pcr := range attest.Selection() {
		value := pcrs[pcr]
		digest.Write(value[:])
	}
	return bytes.HasSuffix(quote, digest.Sum(nil))
}

// openLogs asks for the logs once: firmware does not write its own after the boot,
// and the IMA list is read again from the same file. The helper can sleep meanwhile.
func (c *Collector) openLogs(ctx context.Context) error {
	if c.opened {
		return nil
	}
	boot, ima, err := c.Logs(ctx)
	if err != nil {
		return fmt.Errorf("open boot logs: %w", err)
	}
	defer closeFile(boot)
	if boot != nil {
		if c.eventLog, err = readLog(boot, wire.MaxEventLog); err != nil {
			closeFile(ima)
			return fmt.Errorf("read event log: %w", err)
		}
		c.eventDigest = sha256.Sum256(c.eventLog)
	}
	c.ima, c.opened = ima, true
	return nil
}

// addLogs reads the IMA list after the PCRs, so that it can only run ahead of
// them, and leaves out what the fleet already holds.
func (c *Collector) addLogs(ctx context.Context, ev *attest.Evidence, challenge wire.Challenge) error {
	if err := c.openLogs(ctx); err != nil {
		return err
	}
	if len(c.eventLog) > 0 {
		ev.EventLog = attest.Log{Bytes: c.eventLog, Digest: c.eventDigest}
		if hex.EncodeToString(ev.EventLog.Digest[:]) == challenge.EventLog {
			ev.EventLog.Offset, ev.EventLog.Bytes = int64(len(c.eventLog)), nil
		}
	}
	if c.ima == nil {
		return nil
	}
	var err error
	if ev.IMALog, err = readIMA(c.ima, challenge.IMALog); err != nil {
		closeFile(c.ima)
		c.ima, c.opened = nil, false
		return fmt.Errorf("read IMA list: %w", err)
	}
	return nil
}

// readIMA takes the list from where the fleet holds it, if it holds the begin of this
// one, as far as a message takes. The digest is over all of it: so the fleet knows
// whether more is to come.
func readIMA(list *os.File, held *wire.Held) (attest.Log, error) {
	var log attest.Log
	sum := sha256.New()
	if _, err := list.Seek(0, io.SeekStart); err != nil {
		return log, err
	}
	if held != nil && held.Size > 0 {
		n, err := io.CopyN(sum, list, held.Size)
		if err != nil && !errors.Is(err, io.EOF) {
			return log, err
		}
		if n == held.Size && hex.EncodeToString(sum.Sum(nil)) == held.Digest {
			log.Offset = held.Size
		} else if _, err := list.Seek(0, io.SeekStart); err != nil {
			return log, err
		}
		if log.Offset == 0 {
			sum.Reset()
		}
	}
	var err error
	if log.Bytes, err = io.ReadAll(io.TeeReader(io.LimitReader(list, wire.MaxIMALog), sum)); err != nil {
		return log, err
	}
	if _, err := io.Copy(sum, list); err != nil {
		return log, err
	}
	if log.Offset > 0 || len(log.Bytes) > 0 {
		log.Digest = attest.Digest(sum.Sum(nil))
	}
	return log, nil
}

func readLog(f *os.File, limit int64) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("longer than %d bytes", limit)
	}
	return data, err
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close() // read-only: nothing to lose
	}
}
