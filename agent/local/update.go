package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/gatewarden/gatewarden/agent/credential"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update"
)

// Updates is what a Source may be too: one whose device follows a repository.
type Updates interface {
	UpdateStatus() update.Status
	UpdateHistory() []wire.Update
	UpdateCheck(ctx context.Context) (update.Found, error)
	// UpdateApply installs what there is, in the background. budget is in bytes; 0
	// means the configured one.
	UpdateApply(budget int64)
}

// Trials is what Updates may be too: one that knows how this boot came about.
type Trials interface {
	// UpdateTrial says whether this boot is on trial: the next one leaves what runs.
	UpdateTrial(ctx context.Context) (bool, error)
}

// Confirmed is the answer to the question whether what runs is here to stay.
type Confirmed struct {
	Confirmed bool `json:"confirmed"`
}

const pathUpdate = "/v1/update/"

// apply is the body of an apply request.
type apply struct {
	Budget int64 `json:"budget"` // bytes; 0: the configured one
}

// routeUpdates adds the paths of updates; u is nil where there are none.
func routeUpdates(mux *http.ServeMux, u Updates) {
	handle := func(pattern string, answer func(r *http.Request) (any, *wire.Problem)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if u == nil {
				refuse(w, wire.Problem{
					Status: http.StatusNotFound, Title: "this gateway follows no update repository",
					Detail: "install the owner's root.json in the trust folder and restart the agent",
				})
				return
			}
			v, problem := answer(r)
			if problem != nil {
				refuse(w, *problem)
				return
			}
			write(w, v)
		})
	}
	handle("GET "+pathUpdate+"status", func(*http.Request) (any, *wire.Problem) { return u.UpdateStatus(), nil })
	handle("GET "+pathUpdate+"history", func(*http.Request) (any, *wire.Problem) { return u.UpdateHistory(), nil })
	handle("POST "+pathUpdate+"check", func(r *http.Request) (any, *wire.Problem) {
		found, err := u.UpdateCheck(r.Context())
		if err != nil {
			return nil, &wire.Problem{Status: http.StatusServiceUnavailable, Title: err.Error(), Detail: "`gatewarden update status` shows when the agent looks again by itself"}
		}
		return found, nil
	})
	mux.HandleFunc("GET "+pathUpdate+"confirmed", func(w http.ResponseWriter, r *http.Request) {
		confirmed, err := confirm(r.Context(), u)
		if err != nil {
			refuse(w, wire.Problem{Status: http.StatusServiceUnavailable, Title: err.Error(), Detail: "is gatewarden-helper.socket active?"})
			return
		}
		write(w, Confirmed{confirmed})
	})
	handle("POST "+pathUpdate+"apply", func(r *http.Request) (any, *wire.Problem) { return startApply(u, r) })
}

// confirm is true for a gateway that follows no repository: what it boots is not
// ours to judge.
func confirm(ctx context.Context, u Updates) (bool, error) {
	t, ok := u.(Trials)
	if !ok {
		return true, nil
	}
	trial, err := t.UpdateTrial(ctx)
	return !trial, err
}

// startApply needs root: the group may read, it may not change what runs.
func startApply(u Updates, r *http.Request) (any, *wire.Problem) {
	if !mayChange(r) {
		return nil, &wire.Problem{Status: http.StatusForbidden, Title: "only root may have a release installed", Detail: "run it with sudo"}
	}
	var body apply
	data, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err == nil {
		err = strictjson.Unmarshal(data, &body)
	}
	if err != nil || body.Budget < 0 {
		return nil, &wire.Problem{Status: http.StatusBadRequest, Title: "the request can't be read", Detail: "budget is a number of bytes"}
	}
	u.UpdateApply(body.Budget)
	return u.UpdateStatus(), nil
}

func refuse(w http.ResponseWriter, p wire.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	write(w, p)
}

type peerKey struct{}

// withPeer notes which user is behind a connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	uid, err := credential.PeerUser(conn)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, uid)
}

// UpdateStatus asks the agent that listens on socket what its update engine does.
func UpdateStatus(ctx context.Context, socket string) (s update.Status, err error) {
	err = call(ctx, socket, http.MethodGet, pathUpdate+"status", nil, &s)
	return s, err
}

// UpdateHistory asks for the outcomes of updates, the last one first.
func UpdateHistory(ctx context.Context, socket string) (h []wire.Update, err error) {
	err = call(ctx, socket, http.MethodGet, pathUpdate+"history", nil, &h)
	return h, err
}

// UpdateCheck has the agent look at the repository now.
func UpdateCheck(ctx context.Context, socket string) (f update.Found, err error) {
	err = call(ctx, socket, http.MethodPost, pathUpdate+"check", nil, &f)
	return f, err
}

// UpdateApply has the agent install what there is. It returns at once.
func UpdateApply(ctx context.Context, socket string, budget int64) (s update.Status, err error) {
	err = call(ctx, socket, http.MethodPost, pathUpdate+"apply", apply{Budget: budget}, &s)
	return s, err
}

// UpdateConfirmed asks whether the release that runs is here to stay.
func UpdateConfirmed(ctx context.Context, socket string) (confirmed bool, err error) {
	var c Confirmed
	err = call(ctx, socket, http.MethodGet, pathUpdate+"confirmed", nil, &c)
	return c.Confirmed, err
}

// call asks the agent one question.
func call(ctx context.Context, socket, method, path string, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return fmt.Errorf("reach the agent at %s: %w\nhint: is gatewarden.service running, and are you in the group gatewarden?", socket, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var p wire.Problem
		if json.Unmarshal(data, &p) != nil || p.Title == "" {
			return fmt.Errorf("the agent answered %s", resp.Status)
		}
		return errors.New(p.Title + "\nhint: " + p.Detail)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}
