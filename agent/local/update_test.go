package local

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update"
)

type engine struct {
	budget int64
	fault  error
}

func (e *engine) UpdateStatus() update.Status {
	return update.Status{State: update.Idle, Budget: e.budget}
}
func (e *engine) UpdateHistory() []wire.Update {
	return []wire.Update{{ID: "1", Outcome: wire.UpdateRolledBack}}
}
func (e *engine) UpdateApply(budget int64) { e.budget = budget }
func (e *engine) UpdateCheck(context.Context) (update.Found, error) {
	return update.Found{Running: "1.0.0", Release: "2.0.0"}, e.fault
}

// serve answers questions about updates; as says which user asks, nil: the real one.
func serve(t *testing.T, u Updates, as func(context.Context, net.Conn) context.Context) (socket string) {
	t.Helper()
	return serveMux(t, func(mux *http.ServeMux) { routeUpdates(mux, u) }, as)
}

func serveMux(t *testing.T, route func(*http.ServeMux), as func(context.Context, net.Conn) context.Context) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	route(mux)
	if as == nil {
		as = withPeer
	}
	server := &http.Server{Handler: mux, ConnContext: as}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return socket
}

func peer(uid uint32) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, _ net.Conn) context.Context { return context.WithValue(ctx, peerKey{}, uid) }
}

func TestUpdatesAreAskedOverTheSocket(t *testing.T) {
	e := &engine{}
	socket := serve(t, e, peer(0))
	if s, err := UpdateApply(t.Context(), socket, 77); err != nil || s.Budget != 77 {
		t.Errorf("apply: %+v, %v", s, err)
	}
	if s, err := UpdateStatus(t.Context(), socket); err != nil || s.State != update.Idle || s.Budget != 77 {
		t.Errorf("status: %+v, %v", s, err)
	}
	if h, err := UpdateHistory(t.Context(), socket); err != nil || len(h) != 1 || h[0].Outcome != wire.UpdateRolledBack {
		t.Errorf("history: %+v, %v", h, err)
	}
	if f, err := UpdateCheck(t.Context(), socket); err != nil || f.Release != "2.0.0" {
		t.Errorf("check: %+v, %v", f, err)
	}
	e.fault = errors.New("no mirror answers")
	if _, err := UpdateCheck(t.Context(), socket); err == nil || !strings.Contains(err.Error(), "no mirror answers") {
		t.Errorf("check without a repository: %v", err)
	}
}

func TestOnlyRootAppliesAnUpdate(t *testing.T) {
	nobody := func(ctx context.Context, _ net.Conn) context.Context { return ctx }
	for name, as := range map[string]func(context.Context, net.Conn) context.Context{"user 1000": peer(1000), "unknown": nobody} {
		e := &engine{}
		if _, err := UpdateApply(t.Context(), serve(t, e, as), 5); err == nil || !strings.Contains(err.Error(), "only root") || e.budget != 0 {
			t.Errorf("%s: %v, budget %d", name, err, e.budget)
		}
	}
}

func TestPeerIsWhoConnected(t *testing.T) {
	e := &engine{}
	_, err := UpdateApply(t.Context(), serve(t, e, nil), 5)
	if root := os.Geteuid() == 0; root != (err == nil) {
		t.Errorf("as user %d: %v", os.Geteuid(), err)
	}
}

func TestNegativeBudgetIsRefused(t *testing.T) {
	if _, err := UpdateApply(t.Context(), serve(t, &engine{}, peer(0)), -1); err == nil {
		t.Error("it was taken")
	}
}

func TestGatewayWithoutARepositorySaysSo(t *testing.T) {
	if _, err := UpdateStatus(t.Context(), serve(t, nil, peer(0))); err == nil || !strings.Contains(err.Error(), "root.json") {
		t.Errorf("status: %v", err)
	}
}

// trials is an engine that knows whether this boot is on trial.
type trials struct {
	engine
	trial bool
}

func (t *trials) UpdateTrial(context.Context) (bool, error) { return t.trial, t.fault }

// A gateway that follows no repository holds nobody's boot up; one that can't tell
// says so.
func TestBootOnTrialIsNotConfirmed(t *testing.T) {
	down := &trials{}
	down.fault = errors.New("no helper listens")
	for name, c := range map[string]struct {
		updates   Updates
		confirmed bool
		fails     bool
	}{
		"no repository": {nil, true, false}, "on trial": {&trials{trial: true}, false, false}, "committed": {&trials{}, true, false}, "unknown": {down, false, true},
	} {
		confirmed, err := UpdateConfirmed(t.Context(), serve(t, c.updates, nil))
		if confirmed != c.confirmed || (err != nil) != c.fails {
			t.Errorf("%s: confirmed %v, %v", name, confirmed, err)
		}
	}
}
