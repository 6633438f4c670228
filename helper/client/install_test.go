package client

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/update/tuf"
)

const path = "releases/gw/stable/1.1.0.json"

func send(t *testing.T, conn *net.UnixConn, r helperwire.Response) {
	t.Helper()
	r.Version = 1
	frame, err := helperwire.Encode(r)
	if err != nil {
		t.Error(err)
	}
	if _, err := conn.Write(frame); err != nil {
		t.Error(err)
	}
}

// take reads a request and its raw bytes.
func take(t *testing.T, conn *net.UnixConn) (helperwire.Request, []byte) {
	t.Helper()
	var r helperwire.Request
	if err := helperwire.Read(conn, &r); err != nil {
		t.Error(err)
	}
	raw, err := helperwire.ReadRaw(conn, r.Raw, 1<<20, nil)
	if err != nil {
		t.Error(err)
	}
	return r, raw
}

func TestCourierCarriesFilesOrTheirAbsence(t *testing.T) {
	client := serve(t, func(conn *net.UnixConn) {
		send(t, conn, helperwire.Response{Want: &helperwire.Want{Name: "2.root.json", Limit: 100}})
		if r, raw := take(t, conn); r.Verb != helperwire.StepFile || !r.Absent || len(raw) > 0 {
			t.Errorf("the absent file: %+v, %q", r, raw)
		}
		send(t, conn, helperwire.Response{Want: &helperwire.Want{Name: "timestamp.json", Limit: 100}})
		if r, raw := take(t, conn); r.Verb != helperwire.StepFile || r.Absent || string(raw) != "signed" {
			t.Errorf("the file: %+v, %q", r, raw)
		}
		send(t, conn, helperwire.Response{Install: &helperwire.Install{Slot: "b", Release: "1.1.0", Images: []Image{{Kind: "rootfs", Size: 5}}}})
		take(t, conn)
		send(t, conn, helperwire.Response{Progress: &helperwire.Progress{Done: 1, Total: 5}})
		send(t, conn, helperwire.Response{Progress: &helperwire.Progress{Done: 3, Total: 5}})
		send(t, conn, helperwire.Response{Missing: []byte{0b0000_0101, 0b1000_0000}})
		if r, raw := take(t, conn); r.Chunk != 15 || string(raw) != "chunk" {
			t.Errorf("the chunk: %+v, %q", r, raw)
		}
		send(t, conn, helperwire.Response{Error: &helperwire.Error{Rule: "chunk", Text: "No."}})
		take(t, conn)
		send(t, conn, helperwire.Response{})
	})
	i, err := client.Install(t.Context(), path, tuf.Bundle{"timestamp.json": []byte("signed")})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if i.Slot() != "b" || i.Release() != "1.1.0" || len(i.Images()) != 1 {
		t.Errorf("session is %+v", i.about)
	}
	var done []int64
	missing, err := i.Seed(t.Context(), nil, func(n, _ int64) { done = append(done, n) })
	if err != nil || len(missing) != 3 || missing[0] != 0 || missing[1] != 2 || missing[2] != 15 || len(done) != 2 {
		t.Errorf("missing %v, %v, progress %v", missing, err, done)
	}
	var refusal *policy.Refusal
	if err := i.Chunk(t.Context(), 15, []byte("chunk")); !errors.As(err, &refusal) || refusal.Rule != "chunk" {
		t.Errorf("error is %v, want a refusal", err)
	}
	if err := i.Finish(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// broken is a repository that can't be reached.
type broken struct{ err error }

func (b broken) Fetch(context.Context, string, int64) (io.ReadCloser, error) { return nil, b.err }

func TestInstallThatCanNotBeginIsAnError(t *testing.T) {
	down := errors.New("network is down")
	want := func(limit int64) helperwire.Response {
		return helperwire.Response{Version: 1, Want: &helperwire.Want{Name: "timestamp.json", Limit: limit}}
	}
	for name, c := range map[string]struct {
		reply func(*net.UnixConn)
		files tuf.Fetcher
	}{
		"refused":         {say(t, 0, helperwire.Response{Version: 1, Error: &helperwire.Error{Rule: "busy", Text: "No."}}), tuf.Bundle{}},
		"empty answer":    {say(t, 0, helperwire.Response{Version: 1}), tuf.Bundle{}},
		"closed":          {func(*net.UnixConn) {}, tuf.Bundle{}},
		"no network":      {say(t, 0, want(100)), broken{down}},
		"too long a file": {say(t, 0, want(3)), tuf.Bundle{"timestamp.json": []byte("long")}},
		"huge limit":      {say(t, 0, want(1<<40)), tuf.Bundle{}},
		"negative limit":  {say(t, 0, want(-1)), tuf.Bundle{}},
	} {
		i, err := serve(t, c.reply).Install(t.Context(), path, c.files)
		if err == nil {
			i.Close()
			t.Errorf("%s: a session is open", name)
		}
		if name == "no network" && !errors.Is(err, down) {
			t.Errorf("error is %v", err)
		}
	}
}

func TestSilentSessionIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	client := serve(t, func(conn *net.UnixConn) {
		send(t, conn, helperwire.Response{Install: &helperwire.Install{Slot: "b"}})
		<-release
	})
	i, err := client.Install(t.Context(), path, tuf.Bundle{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := i.Finish(ctx, nil); err == nil {
		t.Error("a silent helper finished")
	}
}
