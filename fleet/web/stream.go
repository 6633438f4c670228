package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// stream tells browsers, by server-sent events, that a page changed. It never
// says what: the page is fetched again. Safe for concurrent use.
type stream struct {
	registry Registry
	slots    chan struct{}
}

func newStream(r Registry) *stream {
	return &stream{registry: r, slots: make(chan struct{}, maxStreams)}
}

// ServeHTTP serves /events and /events?device=ID.
func (s *stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	device := r.URL.Query().Get("device")
	if device != "" && !isDevice(device) {
		http.Error(w, "device is no device id", http.StatusBadRequest)
		return
	}
	// A foreign page can't read the stream, but it could use up the slots.
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		http.Error(w, "events are for the dashboard's own pages", http.StatusForbidden)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many open dashboards; this one shows what it has and asks again", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy must not hold events back
	if r.Method == http.MethodHead {
		return
	}
	changed, cancel := s.registry.Subscribe()
	defer cancel()
	ctx, end := context.WithTimeout(r.Context(), streamLife)
	defer end()
	send := sender(w)
	if send("retry: 2000\n\n") == nil {
		forward(ctx, changed, device, send)
	}
}

// forward turns changes into events, at most one in streamGap, until ctx ends,
// the registry ends the subscription or send fails.
func forward(ctx context.Context, changed <-chan string, device string, send func(string) error) {
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	gap := time.NewTimer(0)
	defer gap.Stop()
	due, open := false, false // something to tell; allowed to tell
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case id, ok := <-changed:
			if !ok {
				return
			}
			due = due || device == "" || id == "" || id == device
		case <-gap.C:
			open = true
		case <-beat.C:
			err = send(": still here\n\n")
		}
		if due && open {
			due, open = false, false
			gap.Reset(streamGap)
			err = errors.Join(err, send("event: change\ndata: now\n\n"))
		}
		if err != nil {
			return // the browser has gone; nobody is left to be told
		}
	}
}

// sender writes and flushes with a deadline, so that a stalled browser frees its slot.
func sender(w http.ResponseWriter) func(string) error {
	rc := http.NewResponseController(w)
	return func(text string) error {
		if err := rc.SetWriteDeadline(time.Now().Add(writeTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("set write deadline: %w", err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return fmt.Errorf("write event: %w", err)
		}
		return rc.Flush()
	}
}

func isDevice(id string) bool {
	_, quarantined, ok := wire.DeviceOf(id)
	return ok && !quarantined
}
