package agent

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/anchor"
)

const (
	anchorFile     = "anchor.json"
	maxAnchorFile  = 4 << 10 // bytes
	anchorDelay    = 10 * time.Second
	anchorInterval = time.Hour // each time writes the chip's memory, which bears some hundred thousand times
)

// anchorAudit ties the end of the audit log to the TPM: soon after a start, when it
// first looks whether the log still is what was tied, and each hour in which the log grew.
func (a *Agent) anchorAudit(ctx context.Context) error {
	timer := time.NewTimer(anchorDelay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := a.anchorNow(ctx); err != nil {
			a.log.Warn("anchor audit log", "error", err)
		}
		timer.Reset(anchorInterval)
	}
}

func (a *Agent) anchorNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tpmPatience)
	defer cancel()
	record, err := a.anchored(ctx)
	if err != nil {
		return err
	}
	index, head := a.audit.Head()
	digest, err := hex.DecodeString(head)
	if err != nil {
		return fmt.Errorf("read audit head: %w", err)
	}
	if index == record.Last.Index && bytes.Equal(digest, record.Last.Head) {
		return nil
	}
	record = record.With(index, digest)
	if err := a.fs.WriteJSON(a.path(anchorFile), record, 0o600); err != nil {
		return fmt.Errorf("store anchor: %w", err)
	}
	return a.tpm.Do(ctx, "anchor audit log", func(c *tpm.Chip) error {
		_, err := anchor.Extend(c, record)
		return err
	})
}

// anchored returns what was anchored last. What does not fit goes into the audit log,
// and so to the fleet, and a new record begins.
func (a *Agent) anchored(ctx context.Context) (anchor.Record, error) {
	var record anchor.Record // not a result: where ctx ends, the chip's goroutine may still write it
	err := a.fs.ReadJSON(a.path(anchorFile), maxAnchorFile, &record)
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsx.ErrDamaged)
	if err != nil && !missing {
		return anchor.Record{}, fmt.Errorf("read anchor: %w", err)
	}
	var alarm *anchor.Alarm
	err = a.tpm.Do(ctx, "check anchor", func(c *tpm.Chip) (err error) {
		if !missing {
			if record, err = anchor.Check(c, record); !errors.As(err, &alarm) {
				return err
			}
		}
		record, err = anchor.Begin(c, a.settings.TPMAuth.Owner)
		return err
	})
	switch {
	case err != nil:
		return anchor.Record{}, err
	case alarm != nil:
		a.event("audit.anchor-differs", "The end of the audit log is not tied to the TPM as it was: "+alarm.Text+".")
	case missing && !record.Fresh():
		a.event("audit.anchor-differs", "The TPM holds the end of an audit log, and the record of it is lost.")
	case !missing:
		err = a.checkAnchored(record.Last)
	}
	return record, err
}

// checkAnchored looks for the anchored end in the log as it is.
func (a *Agent) checkAnchored(last anchor.Mark) error {
	head, known, err := a.audit.HeadAt(last.Index)
	if err != nil {
		return err
	}
	if end, _ := a.audit.Head(); end < last.Index || known && head != hex.EncodeToString(last.Head) {
		a.event("audit.truncated", fmt.Sprintf("The audit log is not the one that was tied to the TPM: it had %d entries, and %d are there.", last.Index, end))
	}
	return nil
}
