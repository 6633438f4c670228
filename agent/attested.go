package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

const (
	maxVerdictFile = wire.MaxBody
	mostUnanswered = 3 // questions in a row without a verdict, before the identity is looked at

	// retryEvidence is the first rest after evidence that could not be made; it doubles
	// up to the usual interval.
	retryEvidence = time.Second

	// quotePace is the least time between two answers to challenges of the broker.
	// They are unsigned: whoever holds the broker must not keep a slow chip busy.
	quotePace = 3 * time.Second
)

// noteEvidence has the fleet asked again soon if evidence could not be made: at a
// start the helper may come after the agent.
func (a *Agent) noteEvidence(err error) {
	if err == nil {
		a.unable.Store(0)
		return
	}
	a.log.Error("answer challenge", "error", err)
	if a.unable.Add(1) > 1 && errors.Is(err, tpm.ErrReplaced) {
		a.foreign.Store(&err)
	}
	select {
	case a.askSoon <- struct{}{}:
	default:
	}
}

func (a *Agent) answer(ctx context.Context, payload []byte) error {
	var challenge wire.Challenge
	if err := strictjson.Inform(payload, &challenge); err != nil {
		return fmt.Errorf("read challenge: %w", err)
	}
	if len(challenge.Nonce) != wire.NonceSize {
		return fmt.Errorf("read challenge: its nonce has %d bytes, want %d", len(challenge.Nonce), wire.NonceSize)
	}
	select {
	case <-a.mayQuote:
		time.AfterFunc(quotePace, func() { a.mayQuote <- struct{}{} })
	case <-ctx.Done():
		return nil // the agent ends
	}
	ev, err := a.collect(ctx, challenge, a.identity.Keys()...)
	if err != nil {
		return err
	}
	a.identity.Saw(ev.Quote)
	a.answered.Store(&challenge.Nonce)
	return a.link.Publish(ctx, wire.KindEvidence, ev)
}

// collect makes evidence, and notes for which challenge.
func (a *Agent) collect(ctx context.Context, c wire.Challenge, keys ...string) (attest.Evidence, error) {
	a.quotes.add(c.Nonce)
	return a.evidence.Collect(ctx, c, keys...)
}

// quotes are the nonces of the last challenges that were answered. A verdict on
// another one is about a boot before, whenever it arrives.
type quotes struct {
	mu     sync.Mutex
	nonces [][]byte
}

const maxQuotes = 16 // that may wait for their verdicts, count

func (q *quotes) add(nonce []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.nonces = append(q.nonces[max(0, len(q.nonces)-maxQuotes+1):], nonce)
}

func (q *quotes) has(nonce []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.nonces, func(n []byte) bool { return bytes.Equal(n, nonce) })
}

// Attest asks the fleet for a fresh verdict and waits for it: one on a quote that
// was made after the question.
func (a *Agent) Attest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	before := a.answered.Load()
	if err := a.askAgain(ctx); err != nil {
		return fmt.Errorf("ask the fleet for a challenge: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return errors.New("the fleet sent no verdict within 30 seconds")
		case v := <-a.verdicts:
			if now := a.answered.Load(); now != before && bytes.Equal(*now, v.Nonce) {
				return nil
			}
		}
	}
}

// judged takes in a verdict, from whichever way it came.
func (a *Agent) judged(v wire.Verdict) {
	before := a.verdict.Swap(&v)
	if a.quotes.has(v.Nonce) {
		a.ofBoot.Store(&v)
	}
	a.unanswered.Store(0)
	if err := a.fs.WriteJSON(a.path("verdict.json"), v, 0o600); err != nil {
		a.log.Error("store verdict", "error", err)
	}
	if before == nil || before.Grade != v.Grade {
		a.log.Info("judged", "grade", v.Grade, "gate", v.Gate)
	}
	select {
	case <-a.verdicts: // nobody waited for it; the newest counts
	default:
	}
	select {
	case a.verdicts <- v:
	default:
	}
	select {
	case a.rest <- struct{}{}:
	default:
	}
	a.askReport()
	a.considerLock()
}

// restoreVerdict shows the last verdict after a restart; a damaged file is as
// good as none.
func (a *Agent) restoreVerdict() {
	var v wire.Verdict
	err := a.fs.ReadJSON(a.path("verdict.json"), maxVerdictFile, &v)
	switch {
	case err == nil:
		a.verdict.Store(&v)
	case !errors.Is(err, fs.ErrNotExist):
		a.log.Warn("stored verdict can't be read; the next one replaces it", "error", err)
	}
}

// attestRegularly asks to be judged at each interval while there is a connection;
// each new connection asks by itself.
func (a *Agent) attestRegularly(ctx context.Context) error {
	interval := time.Duration(a.settings.Attest.Interval)
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.askSoon:
			// A start makes new keys; this one would ask in vain for ever.
			if err := a.foreign.Load(); err != nil {
				a.event("tpm.replaced", "the TPM was cleared or exchanged; the agent starts again with new keys")
				return *err
			}
			timer.Reset(min(interval, retryEvidence<<min(a.unable.Load(), 16)))
			continue
		case <-timer.C:
			timer.Reset(interval)
		}
		if !a.link.Status().Connected {
			continue
		}
		// A fleet that can't accept the evidence is silent here. The device API says
		// why, and the way back leads over it.
		if a.unanswered.Add(1) == mostUnanswered {
			a.identity.Kick("the fleet sends no verdict")
		}
		if err := a.askAgain(ctx); err != nil {
			a.log.Warn("ask for a challenge", "error", err)
		}
	}
}

func (a *Agent) askAgain(ctx context.Context) error {
	again := a.hello()
	again.Connected = false
	return a.link.Publish(ctx, wire.KindHello, again)
}

func (a *Agent) claims() attest.Claims {
	_, head := a.audit.Head()
	c := attest.Claims{
		Version: 1, Software: a.version, Slot: a.slot(), Audit: head,
	}
	if posture := a.reported.Load(); posture != nil {
		c.Posture = *posture
	}
	return c
}
