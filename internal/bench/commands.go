package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/bench/rig"
)

const (
	maxEnrolCommands   = 16
	maxStartSignatures = 2
)

// tpmCommands counts what passes to the chip: an enrolment, a start of an
// enrolled agent until its first health report and verdict have arrived, an
// attestation, and a resumed TLS session.
func tpmCommands(ctx context.Context) (figure, error) {
	l, err := newLab(ctx)
	if err != nil {
		return notBuilt(err)
	}
	defer l.close()
	d, err := l.device(ctx)
	if err != nil {
		return figure{}, err
	}
	if err := d.enrol(ctx, l); err != nil {
		return figure{}, errors.Join(err, d.chip.Close())
	}
	enrol, attested := split(l.tap.Take())
	resumed, err := l.resume(ctx, d)
	if err := errors.Join(err, d.chip.Close()); err != nil {
		return figure{}, err
	}
	l.tap.Take()
	start, quotes, err := l.startAndAttest(ctx)
	if err != nil {
		return figure{}, err
	}
	return figure{
		text: fmt.Sprintf("%d to enrol (+%d to attest in it); %d quote; %d signatures to start; %d to resume", enrol, attested, quotes, start, resumed),
		over: enrol > maxEnrolCommands || quotes != 1 || start > maxStartSignatures || resumed > 0,
	}, nil
}

// split tells the commands of attestations from the others. Somebody who decides
// while the device waits makes it attest once more than one who decided before.
func split(codes []tpm2.TPMCC) (others, attesting int) {
	for _, code := range codes {
		if code == tpm2.TPMCCQuote || code == tpm2.TPMCCPCRRead {
			attesting++
		} else {
			others++
		}
	}
	return others, attesting
}

// signatures counts the commands that a hardware chip takes long for.
func signatures(codes []tpm2.TPMCC) int {
	n := 0
	for _, code := range codes {
		if slices.Contains([]tpm2.TPMCC{tpm2.TPMCCSign, tpm2.TPMCCQuote, tpm2.TPMCCCertify}, code) {
			n++
		}
	}
	return n
}

// resume connects twice and counts the commands of the second time.
func (l *lab) resume(ctx context.Context, d *device) (int, error) {
	for range 2 {
		l.tap.Take()
		conn, err := d.connect(ctx)
		if err != nil {
			return 0, err
		}
		conn.Close()
	}
	return len(l.tap.Take()), nil
}

func (l *lab) startAndAttest(ctx context.Context) (start, quotes int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	r, err := l.start(ctx)
	if err != nil {
		return 0, 0, err
	}
	err = rig.Await(ctx, "start", func() error { return settled(r.Status(), began) })
	start = signatures(l.tap.Take())
	if err == nil {
		err = r.Attest(ctx)
	}
	for _, code := range l.tap.Take() {
		if code == tpm2.TPMCCQuote {
			quotes++
		}
	}
	return start, quotes, errors.Join(err, r.end())
}
