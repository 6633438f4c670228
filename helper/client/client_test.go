package client

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// serve answers each connection by reply, which gets it after the request was read.
func serve(t *testing.T, reply func(conn *net.UnixConn)) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			if helperwire.Read(conn, &helperwire.Request{}) == nil {
				reply(conn)
			}
			conn.Close()
		}
	}()
	return New(path)
}

func say(t *testing.T, files int, response helperwire.Response) func(*net.UnixConn) {
	return func(conn *net.UnixConn) {
		frame, err := helperwire.Encode(response)
		if err != nil {
			t.Error(err)
		}
		var control []byte
		if files > 0 {
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Error(err)
				return
			}
			defer null.Close()
			control = unix.UnixRights(repeat(int(null.Fd()), files)...)
		}
		if _, _, err := conn.WriteMsgUnix(frame, control, nil); err != nil {
			t.Error(err)
		}
	}
}

func repeat(fd, n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = fd
	}
	return list
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	return len(list)
}

func TestWrongNumberOfFilesIsRefusedAndLeaksNone(t *testing.T) {
	for name, c := range map[string]struct {
		files int
		logs  helperwire.Logs
	}{
		"fewer": {1, helperwire.Logs{Event: true, IMA: true}},
		"more":  {2, helperwire.Logs{Event: true}},
		"none":  {0, helperwire.Logs{IMA: true}},
		"many":  {9, helperwire.Logs{Event: true, IMA: true}},
	} {
		client := serve(t, say(t, c.files, helperwire.Response{Version: 1, Logs: &c.logs}))
		if _, _, err := client.Logs(t.Context()); err == nil { // opens what stays open: listener, poller
			t.Errorf("%s: accepted", name)
		}
		before := openFiles(t)
		for range 50 {
			if _, _, err := client.Logs(t.Context()); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		if after := openFiles(t); after > before+5 {
			t.Errorf("%s: %d files open before, %d after", name, before, after)
		}
	}
}

func TestOddAnswersAreErrors(t *testing.T) {
	for name, reply := range map[string]func(*net.UnixConn){
		"closed":  func(*net.UnixConn) {},
		"garbage": func(c *net.UnixConn) { c.Write([]byte("garbage, and more of it")) },
		"huge":    func(c *net.UnixConn) { c.Write([]byte{0xff, 0xff, 0xff, 0xff}) },
		"half":    func(c *net.UnixConn) { c.Write([]byte{0, 0, 0, 9, '{'}) },
		"version": say(t, 0, helperwire.Response{Version: 2, Info: &helperwire.Info{}}),
		"empty":   say(t, 0, helperwire.Response{Version: 1}),
	} {
		client := serve(t, reply)
		if _, err := client.Info(t.Context()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRefusalAndFailureAreToldApart(t *testing.T) {
	answer := func(rule string) *Client {
		return serve(t, say(t, 0, helperwire.Response{Version: 1, Error: &helperwire.Error{Rule: rule, Text: "No."}}))
	}
	var refusal *policy.Refusal
	if err := answer("expired").Reboot(t.Context(), wire.Envelope{}); !errors.As(err, &refusal) || refusal.Rule != "expired" {
		t.Errorf("error is %v, want a refusal", err)
	}
	if err := answer("").Reboot(t.Context(), wire.Envelope{}); err == nil || errors.As(err, &refusal) && refusal.Rule == "" {
		t.Errorf("error is %v, want a failure", err)
	}
}

func TestSilentHelperIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	client := serve(t, func(*net.UnixConn) { <-release })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Info(ctx); err == nil {
		t.Error("got an answer from a silent helper")
	}
}

func TestAbsentHelperIsOneSentenceWithAHint(t *testing.T) {
	_, err := New(filepath.Join(t.TempDir(), "none")).Info(t.Context())
	if err == nil || !strings.Contains(err.Error(), "gatewarden-helper.socket") {
		t.Errorf("error is %v", err)
	}
}
