// Package rig sets up what a measurement or a test of the whole needs on one
// machine: a fleet server in this process and gateways with an emulated TPM each.
//
// Its promise: all parts are the real ones, on loopback and in the folder given;
// only the firmware's measuring is replayed from a recording.
package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/conf"
	"github.com/gatewarden/gatewarden/internal/freeport"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/softkey"
)

// Name is the fleet's.
const Name = "rig"

const retry = conf.Duration(200 * time.Millisecond) // what a waiting device is told to wait

// Fleet is a running fleet server.
type Fleet struct {
	Settings fleet.Settings
	API      *operator.Client
	Server   *fleet.Server

	dir  string
	stop func() error
}

// StartFleet makes a fleet below dir, whose path must leave room for socket names,
// and serves it until Close. change may alter the settings before; nil leaves them.
func StartFleet(dir string, change func(*fleet.Settings)) (*Fleet, error) {
	addresses, err := freeport.Addresses(2)
	if err != nil {
		return nil, err
	}
	s := fleet.DefaultSettings()
	s.Fleet, s.State = Name, filepath.Join(dir, "fleet")
	s.Policy, s.Updates = filepath.Join(s.State, "policy.json"), filepath.Join(s.State, "updates")
	s.Listen = fleet.Listen{API: addresses[0], MQTT: addresses[1], Dashboard: "127.0.0.1:0", Operator: filepath.Join(dir, "operator.sock")}
	s.Public = fleet.Public{API: []string{"https://" + addresses[0]}, MQTT: []string{"mqtts://" + addresses[1]}}
	s.Enroll.Retry = retry
	if change != nil {
		change(&s)
	}
	f := &Fleet{Settings: s, API: operator.NewClient(s.Listen.Operator), dir: dir}
	if err := f.install(); err != nil {
		return nil, fmt.Errorf("install fleet: %w", err)
	}
	return f, f.Start()
}

// install makes keys and trust documents, with an operators.json that lets nobody
// do anything, and the policy.
func (f *Fleet) install() error {
	if err := fleet.Init(f.Settings, time.Now()); err != nil {
		return err
	}
	operators := policy.Operators{Version: 1, Issued: time.Now().UTC(), Fleet: Name, People: []policy.Person{}, Verbs: map[string]policy.Grant{}}
	if err := writeJSON(filepath.Join(f.Trust(), policy.OperatorsFile), operators); err != nil {
		return err
	}
	return writeJSON(f.Settings.Policy, attest.Policy{
		Version: 1, Issued: time.Now().UTC(), Fleet: Name, Releases: []attest.Release{BootSoftware().Release("rig", "1.0.0")},
		Rules: map[string]attest.Severity{softkey.Rule: attest.Degrade},
	})
}

// Start serves again after Close.
func (f *Fleet) Start() error {
	server, err := fleet.New(f.Settings, "rig", Quiet())
	if err != nil {
		return fmt.Errorf("start fleet: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	f.Server = server
	f.stop = func() error {
		cancel()
		return <-ended
	}
	return nil
}

// Trust is the folder of the trust documents that gateways are given.
func (f *Fleet) Trust() string { return filepath.Join(f.Settings.State, "trust") }

// Close ends the server. It may be called twice.
func (f *Fleet) Close() error {
	if f.stop == nil {
		return nil
	}
	stop := f.stop
	f.stop = nil
	return stop()
}

// Approve lets a device in as soon as it waits for approval; nobody vouches for
// its TPM, if it has one.
func (f *Fleet) Approve(ctx context.Context, id string) error {
	return Await(ctx, "approve "+id, func() error {
		return f.API.Approve(ctx, id, operator.Decision{By: "rig", Reason: "rig", AcceptEK: true, AcceptSoftware: true})
	})
}

// Await polls until try succeeds or ctx ends; then it says why it did not.
func Await(ctx context.Context, what string, try func() error) error {
	return AwaitEvery(ctx, 20*time.Millisecond, what, try)
}

// AwaitEvery is Await with the time between two polls.
func AwaitEvery(ctx context.Context, every time.Duration, what string, try func() error) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		case <-ticker.C:
		}
	}
}

// Quiet is a logger that says nothing.
func Quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
