package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// threeWaiting are gateways with real agents that wait to be let into a real fleet.
func threeWaiting(t *testing.T) (fleet *rig.Fleet, list [3]*rig.Gateway) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if fleet, err = rig.StartFleet(dir, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fleet.Close() })
	for n := range list {
		_, power := tpmtest.Start(t)
		g, err := rig.Boot(t.Context(), filepath.Join(dir, fmt.Sprint(n)), fleet.Trust(), power)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { g.Close() })
		g.Device, list[n] = runAgent(t, g), g
		awaitStatus(t, g, "it waits for approval", func(s local.Status) bool { return strings.Contains(s.Phase, "approve") })
	}
	return fleet, list
}

// One is in, without a person; the others are told, and wait for one.
func TestTokenGivenToThreeGatewaysAtOnceLetsInOne(t *testing.T) {
	fleet, gateways := threeWaiting(t)
	token, err := fleet.API.NewToken(t.Context(), operator.NewToken{By: "olga", Seconds: 60, AcceptEK: true, AcceptFirmware: true})
	if err != nil {
		t.Fatal(err)
	}
	var giving sync.WaitGroup
	for _, g := range gateways {
		giving.Go(func() {
			if out, code := gatewarden(t, "enroll", "--token", token.Text, "--socket", g.Settings.Socket); code != 0 {
				t.Errorf("exit code %d: %s", code, out)
			}
		})
	}
	giving.Wait()
	in := 0
	for _, g := range gateways {
		awaitStatus(t, g, "the token is judged", func(s local.Status) bool { return s.Certificate != nil || refusedToken(g) })
		if _, err := os.Stat(filepath.Join(g.Settings.State, "identity", "token")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s keeps the token: %v", g.Device, err)
		}
		d, err := fleet.API.Device(t.Context(), g.Device)
		if err != nil {
			t.Fatal(err)
		}
		if d.State == registry.Active {
			in++
			if out, code := gatewarden(t, "enroll", "--token", token.Text, "--socket", g.Settings.Socket); code != 1 || !strings.Contains(out, "enrolled already") {
				t.Errorf("the token a second time: %d, %s", code, out)
			}
			continue
		}
		if d.State != registry.Pending || !refusedToken(g) {
			t.Errorf("%s is %s", g.Device, d.State)
		}
		if err := fleet.Approve(t.Context(), g.Device); err != nil {
			t.Error(err)
		}
		awaitStatus(t, g, "a person let it in", func(s local.Status) bool { return s.Certificate != nil })
	}
	if in != 1 {
		t.Errorf("one token let in %d gateways", in)
	}
}

// refusedToken says whether the agent's audit log tells that the fleet did not take
// the token.
func refusedToken(g *rig.Gateway) bool {
	log, err := os.ReadFile(filepath.Join(g.Settings.State, "audit.log"))
	return err == nil && bytes.Contains(log, []byte("identity.token-refused"))
}

// gatewarden runs the program as people do.
func gatewarden(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var text bytes.Buffer
	code = run(t.Context(), args, &text, &text)
	return text.String(), code
}

func awaitStatus(t *testing.T, g *rig.Gateway, what string, ok func(local.Status) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := rig.Await(ctx, "wait until "+what, func() error {
		s, err := local.Get(ctx, g.Settings.Socket, false)
		if err == nil && !ok(s) {
			err = fmt.Errorf("the agent says: %s; %s", s.Phase, s.Problem)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
