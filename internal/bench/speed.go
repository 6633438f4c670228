package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	maxOverhead = 1.15
	maxStart    = 1.5
	quoteRounds = 400
	startRounds = 7
)

// stopwatch collects times of one thing.
type stopwatch []time.Duration

func (s *stopwatch) time(f func() error) error {
	began := time.Now()
	err := f()
	*s = append(*s, time.Since(began))
	return err
}

// median shrugs off what a busy machine does to some rounds.
func (s stopwatch) median() time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// best is what nine tenths of the rounds did not reach: what a machine does that is
// left in peace for a moment.
func (s stopwatch) best() time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/10]
}

// overhead compares all that answers a challenge with the TPM2_Quote in it.
func overhead(ctx context.Context) (figure, error) {
	l, err := newLab(ctx)
	if err != nil {
		return notBuilt(err)
	}
	defer l.close()
	d, err := l.device(ctx)
	if err != nil {
		return figure{}, err
	}
	defer d.chip.Close()
	challenge := wire.Challenge{Nonce: make([]byte, wire.NonceSize)}
	if err := d.quote(ctx); err != nil {
		return figure{}, err
	}
	var raw, ours stopwatch
	for range quoteRounds {
		err := raw.time(d.rawQuote)
		if err == nil {
			err = ours.time(func() error {
				_, err := d.evidence.Collect(ctx, challenge)
				return err
			})
		}
		if err != nil {
			return figure{}, err
		}
	}
	ratio := float64(ours.best()) / float64(raw.best())
	return figure{
		text: fmt.Sprintf("%.2fx (swtpm: %.2f ms over %.2f)", ratio, milliseconds(ours.best()), milliseconds(raw.best())),
		over: ratio > maxOverhead,
	}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// startTime compares an agent's start, until its verdict has come and the fleet
// has acknowledged its health, with the parts that can't be left out.
func startTime(ctx context.Context) (figure, error) {
	l, err := newLab(ctx)
	if err != nil {
		return notBuilt(err)
	}
	defer l.close()
	if err := l.enrol(ctx); err != nil {
		return figure{}, err
	}
	var whole, handshake, quote, publish stopwatch
	for range startRounds {
		if err := l.timeStart(ctx, &whole); err != nil {
			return figure{}, err
		}
		if err := l.timeParts(ctx, &handshake, &quote, &publish); err != nil {
			return figure{}, err
		}
	}
	parts := handshake.median() + quote.median() + publish.median()
	ratio := float64(whole.median()) / float64(parts)
	return figure{
		text: fmt.Sprintf("%.1fx (%.1f ms; parts %.1f + %.1f + %.1f)", ratio, milliseconds(whole.median()),
			milliseconds(handshake.median()), milliseconds(quote.median()), milliseconds(publish.median())),
		over: ratio > maxStart,
	}, nil
}

func (l *lab) timeStart(ctx context.Context, whole *stopwatch) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var r *running
	err := whole.time(func() (err error) {
		began := time.Now()
		if r, err = l.start(ctx); err != nil {
			return err
		}
		return rig.AwaitEvery(ctx, time.Millisecond/2, "start", func() error { return settled(r.Status(), began) })
	})
	if r != nil {
		err = errors.Join(err, r.end())
	}
	return err
}

func (l *lab) timeParts(ctx context.Context, handshake, quote, publish *stopwatch) error {
	d, err := l.device(ctx)
	if err != nil {
		return err
	}
	defer d.chip.Close()
	if err := handshake.time(func() error { return d.handshake(ctx) }); err != nil {
		return err
	}
	if err := quote.time(func() error { return d.quote(ctx) }); err != nil {
		return err
	}
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	m := mqttconn.Message{Topic: wire.UpTopic(d.identity.Device(), wire.KindLinkTest), Payload: make([]byte, 1000), QoS: 1}
	return publish.time(func() error { return conn.Publish(ctx, m) })
}
