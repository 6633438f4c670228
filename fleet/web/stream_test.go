package web

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// listen opens a stream; its lines end when the server ends it.
func listen(t *testing.T, ctx context.Context, address string) <-chan string {
	t.Helper()
	lines, err := tryListen(t, ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func tryListen(t *testing.T, ctx context.Context, address string) (<-chan string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, "GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %s %v", address, answer.Status, answer.Header)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		defer answer.Body.Close()
		for s := bufio.NewScanner(answer.Body); s.Scan(); {
			if s.Text() != "" {
				select {
				case lines <- s.Text():
				case <-ctx.Done():
				}
			}
		}
	}()
	return lines, nil
}

// next is the next line, or "" if the stream ended.
func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		return line
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing came")
		return ""
	}
}

func TestStreamTellsOfChangesAndEndsWithItsBrowser(t *testing.T) {
	store := openRegistry(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	watched := &watched{Registry: store, ended: make(chan struct{})}
	server := httptest.NewServer(newSite(t, watched))
	defer server.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	lines := listen(t, ctx, server.URL+"/events")
	if line := next(t, lines); line != "retry: 2000" {
		t.Fatalf("first line %q", line)
	}
	if err := store.AddEvent(ctx, registry.Event{Device: deviceID("a"), At: now, Severity: registry.Info, Text: "something"}); err != nil {
		t.Fatal(err)
	}
	if a, b := next(t, lines), next(t, lines); a != "event: change" || b != "data: now" {
		t.Fatalf("got %q, %q", a, b)
	}
	leave()
	select {
	case <-watched.ended:
	case <-time.After(2 * time.Minute):
		t.Fatal("the subscription outlived its browser")
	}
}

func TestStreamOutlivesTheServersTimeouts(t *testing.T) {
	store := openRegistry(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var lines <-chan string
	timeout := 50 * time.Millisecond
	for ; ; timeout *= 2 { // a machine that stalls may need longer for the request alone
		server := httptest.NewUnstartedServer(newSite(t, store))
		server.Config.ReadTimeout, server.Config.WriteTimeout = timeout, timeout
		server.Start()
		t.Cleanup(server.Close)
		var err error
		if lines, err = tryListen(t, ctx, server.URL+"/events"); err == nil {
			break
		}
		if timeout > time.Minute {
			t.Fatal(err)
		}
	}
	next(t, lines)
	<-time.After(4 * timeout) // the claim is about this time
	if err := store.AddEvent(ctx, registry.Event{Device: deviceID("a"), At: now, Severity: registry.Info, Text: "something"}); err != nil {
		t.Fatal(err)
	}
	if line := next(t, lines); line != "event: change" {
		t.Errorf("got %q", line)
	}
}

// watched tells when a subscription was cancelled.
type watched struct {
	Registry
	ended chan struct{}
}

func (w *watched) Subscribe() (<-chan string, func()) {
	changed, cancel := w.Registry.Subscribe()
	return changed, func() { cancel(); close(w.ended) }
}

func TestDeviceStreamIsSilentAboutOthersAndEventsAreRationed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed := make(chan string)
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		var sent string
		done := make(chan struct{})
		go func() {
			defer close(done)
			forward(ctx, changed, "gw-mine", func(text string) error {
				mu.Lock()
				defer mu.Unlock()
				sent += text
				return nil
			})
		}()
		told := func() string { mu.Lock(); defer mu.Unlock(); return sent }
		events := func() int { return strings.Count(told(), "event: change") }
		synctest.Wait()
		for range 100 {
			changed <- "gw-other"
		}
		synctest.Wait()
		if events() != 0 {
			t.Errorf("%d events about another device", events())
		}
		for range 100 { // within one moment: one event now, one when the gap is over
			changed <- "gw-mine"
		}
		synctest.Wait()
		if events() != 1 {
			t.Errorf("%d events at once, want 1", events())
		}
		time.Sleep(10 * streamGap) // synctest's clock
		synctest.Wait()
		if events() != 2 {
			t.Errorf("%d events, want 2: the last change must not be lost", events())
		}
		changed <- "" // the fleet itself
		time.Sleep(streamBeat)
		synctest.Wait()
		if events() != 3 || !strings.Contains(told(), ": still here") {
			t.Errorf("%d events, sent %q", events(), told())
		}
		stop()
		<-done
	})
}

func TestStreamsAreCappedAndForeignPagesGetNone(t *testing.T) {
	h := newStream(openRegistry(t))
	for range maxStreams {
		h.slots <- struct{}{}
	}
	w := ask(h, "GET", "/events")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one too many: %d %v", w.Code, w.Header())
	}
	<-h.slots
	for from, want := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200, "": 200} {
		r := httptest.NewRequest("HEAD", "/events", nil)
		if from != "" {
			r.Header.Set("Sec-Fetch-Site", from)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %q: %d, want %d", from, w.Code, want)
		}
	}
	if w := ask(h, "GET", "/events?device=%0Aevent:+x"); w.Code != http.StatusBadRequest {
		t.Errorf("bad device: %d", w.Code)
	}
	if len(h.slots) != maxStreams-1 {
		t.Errorf("%d slots in use, want %d", len(h.slots), maxStreams-1)
	}
}
