package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/agent/clock"
	"github.com/gatewarden/gatewarden/agent/evidence"
	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

// device is the gateway's identity without the rest of the agent: what is needed
// to measure one part alone.
type device struct {
	chip     *tpm.TPM
	bus      *bus
	fleet    *policy.Fleet
	identity *identity.Identity
	evidence *evidence.Collector
}

// device opens the gateway's state. No agent may run.
func (l *lab) device(ctx context.Context) (*device, error) {
	s, files := l.gateway.Settings, &fsx.FS{}
	raw, err := files.ReadFile(filepath.Join(s.Trust, policy.FleetFile), policy.MaxDocument)
	if err != nil {
		return nil, err
	}
	d := &device{}
	if d.fleet, err = policy.ParseFleet(raw); err != nil {
		return nil, err
	}
	if err := files.MkdirAll(s.State, 0o700); err != nil {
		return nil, err
	}
	k, err := clock.New(clock.Config{FS: files, Dir: s.State, Build: time.Unix(1, 0), Now: time.Now, Synced: func() bool { return true }})
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(s.TPM, "unix:"))
	if err != nil {
		return nil, err
	}
	d.bus = &bus{TPMCloser: transport.FromReadWriteCloser(conn)}
	d.chip = tpm.New(d.bus)
	if err := d.open(ctx, filepath.Join(s.State, "identity"), files, k, s.Helper); err != nil {
		return nil, errors.Join(err, d.chip.Close())
	}
	return d, nil
}

func (d *device) open(ctx context.Context, dir string, files *fsx.FS, k *clock.Clock, helper string) (err error) {
	d.identity, err = identity.New(ctx, identity.Config{
		Dir: dir, FS: files, TPM: d.chip, Fleet: func() *policy.Fleet { return d.fleet }, Clock: k, Model: "rig", Software: "bench",
		Collect: func(ctx context.Context, c wire.Challenge, keys ...string) (attest.Evidence, error) {
			return d.evidence.Collect(ctx, c, keys...)
		},
		Verdict: func(wire.Verdict) {}, Changed: func(identity.Credential) {}, Event: func(string, string) {}, Log: rig.Quiet(),
	})
	if err != nil {
		return err
	}
	d.evidence, err = evidence.New(evidence.Config{
		TPM: d.chip, AK: d.identity.AK(), Fleet: d.fleet.Fleet, Device: d.identity.Device(),
		Claims: func() attest.Claims { return attest.Claims{Version: 1, Software: "bench"} }, Logs: client.New(helper).Logs,
	})
	return err
}

// enrol runs the identity until it has a certificate.
func (d *device) enrol(ctx context.Context, l *lab) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- d.identity.Run(ctx) }()
	if err := l.admit(ctx, d.identity.Device()); err != nil {
		return err
	}
	err := rig.Await(ctx, "enrol", func() error {
		if _, ok := d.identity.Current(); !ok {
			phase, last := d.identity.Status()
			return fmt.Errorf("%s: %w", phase, errors.Join(last, errors.New("no certificate")))
		}
		return nil
	})
	cancel()
	<-ended // context.Canceled
	return err
}

// connect opens a session with the broker as the agent does.
func (d *device) connect(ctx context.Context) (*mqttconn.Conn, error) {
	config, id, err := d.identity.TLS()
	if err != nil {
		return nil, err
	}
	return mqttconn.Dial(ctx, mqttconn.Options{
		URL: d.fleet.Broker[0], TLS: config, ClientID: id, KeepAlive: time.Minute, SessionExpiry: time.Hour, Timeout: patience,
		MaxTopic: wire.MaxTopic, MaxPayload: wire.MaxMessage, MaxPacket: wire.MaxMessage + 80<<10, OnMessage: func(mqttconn.Message) {},
	})
}

// handshake is one full TLS handshake with the broker.
func (d *device) handshake(ctx context.Context) error {
	config, _, err := d.identity.TLS()
	if err != nil {
		return err
	}
	config.ClientSessionCache = nil
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", d.fleet.Broker[0][len("mqtts://"):])
	if err != nil {
		return err
	}
	return conn.Close()
}

// bus is a connection that keeps the last TPM2_Quote, to send it again by itself.
type bus struct {
	transport.TPMCloser
	last []byte
}

func (b *bus) Send(command []byte) ([]byte, error) {
	if len(command) >= 10 && tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCQuote {
		b.last = bytes.Clone(command)
	}
	return b.TPMCloser.Send(command)
}

// rawQuote is the chip's part of the last quote alone. Nothing else may use the chip.
func (d *device) rawQuote() error {
	_, err := d.bus.TPMCloser.Send(d.bus.last)
	return err
}

func (d *device) quote(ctx context.Context) error {
	_, _, err := d.chip.Quote(ctx, d.identity.AK(), make([]byte, 32), attest.Selection())
	return err
}
