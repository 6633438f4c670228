package core

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// op is one operation of one caller: a few TPM commands that run without another
// operation in between. It is the transport that those commands use.
type op struct {
	t       *TPM
	ctx     context.Context
	fn      func(*op) error
	done    chan error
	created []*Object // flushed if the caller has gone meanwhile
	pinned  []*Object // not to be evicted during this operation

	mu    sync.Mutex
	given bool // the caller gave up
}

// run is called by the owner.
func (o *op) run() {
	err := o.ctx.Err()
	if err == nil {
		err = o.guarded()
	}
	if forgotten(err) {
		o.forgetAll()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.given || err != nil {
		for _, obj := range o.created {
			o.drop(obj)
		}
	}
	if o.given {
		o.t.since.Store(0)
		return
	}
	o.done <- err
}

// guarded turns a panic of the TPM library into an error: what it decodes comes
// from outside, and a hostile or broken chip must not end the process.
func (o *op) guarded() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = Classify(ErrDamaged, "the chip sent what is no TPM answer", fmt.Errorf("decode TPM response: %v", r))
		}
	}()
	if o.t.broken && o.t.path != "" {
		if err := o.reconnect(); err != nil {
			return err
		}
	}
	if o.t.alone && !o.t.swept {
		if err := o.sweep(); err != nil {
			return err
		}
	}
	return o.fn(o)
}

// Send sends one command, and again while the chip asks for that. It never repeats
// after a lockout: each try would lengthen it.
func (o *op) Send(command []byte) ([]byte, error) {
	wait := firstRetryWait
	for try := 0; ; try++ {
		if err := o.ctx.Err(); err != nil {
			return nil, err
		}
		o.t.commands.Add(1)
		response, err := o.t.chip.Send(command)
		if err != nil {
			o.t.broken = true
			return nil, transportError(err)
		}
		if len(response) < headerSize || int(binary.BigEndian.Uint32(response[2:6])) != len(response) {
			return nil, Classify(ErrDamaged, "the chip sent what is no TPM answer", fmt.Errorf("response of %d bytes", len(response)))
		}
		if try == maxRetries || !postponed(tpm2.TPMRC(binary.BigEndian.Uint32(response[6:10]))) {
			return response, nil
		}
		if err := o.pause(wait); err != nil {
			return nil, err
		}
		wait = min(2*wait, maxRetryWait)
	}
}

func transportError(err error) error {
	var done *classed
	if errors.As(err, &done) {
		return err
	}
	return Classify(ErrAbsent, "the connection to the TPM is lost", err)
}

// postponed tells the warnings after which the same command should be sent again
// (TPM 2.0 Part 2, 6.6.3).
func postponed(rc tpm2.TPMRC) bool {
	switch rc {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	}
	return false
}

func (o *op) pause(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
}

// cleanly runs fn even if the caller's context has ended, with a time of its own:
// for flushes, which must not be skipped.
func (o *op) cleanly(fn func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	caller := o.ctx
	o.ctx = ctx
	defer func() { o.ctx = caller }()
	return fn()
}

var _ transport.TPM = (*op)(nil)
