// Package web is the dashboard: what the registry knows, for people to read.
//
// Its promise: it only reads. No request changes anything, no page needs
// JavaScript, no value that came from a device is ever markup, and one page
// costs the same few queries whether the fleet has ten gateways or a million.
package web

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"time"

	"github.com/gatewarden/gatewarden/update/release"
)

// Config is what the dashboard works with. All but Hosts and Releases is required.
type Config struct {
	Registry Registry
	Now      func() time.Time
	Fleet    string   // name of the fleet
	Version  string   // of this program
	Hosts    []string // names, without port, by which a browser may ask beside loopback ones: those of a reverse proxy
	Log      *slog.Logger
	// Releases gives those of the update repository that is served; nil where the
	// server follows none. An error beside them says why they are not all.
	Releases func(context.Context) ([]*release.Release, error)
}

func (c Config) check() error {
	switch {
	case c.Registry == nil:
		return errors.New("configure dashboard: registry is missing")
	case c.Now == nil:
		return errors.New("configure dashboard: clock is missing")
	case c.Fleet == "":
		return errors.New("configure dashboard: fleet name is missing")
	case c.Version == "":
		return errors.New("configure dashboard: version is missing")
	case c.Log == nil:
		return errors.New("configure dashboard: log is missing")
	}
	return nil
}

// site answers requests. Safe for concurrent use.
type site struct {
	Config
	assets *assets
	pages  map[string]*template.Template
}

// New returns the dashboard's handler. A stream of /events ends with its
// request's context: a server that wants to stop at once cancels its BaseContext.
func New(c Config) (http.Handler, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	files, err := loadAssets()
	if err != nil {
		return nil, err
	}
	pages, err := parsePages()
	if err != nil {
		return nil, err
	}
	s := &site{Config: c, assets: files, pages: pages}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", s.fleetPage)
	mux.HandleFunc("/devices/{id}", s.devicePage)
	mux.HandleFunc("/releases", s.releasesPage)
	mux.HandleFunc("/healthz", s.healthz)
	mux.Handle("/events", newStream(c.Registry))
	mux.Handle("/static/", files)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.sorry(w, r, http.StatusNotFound, "There is no such page", "Check the address, or start from the fleet.")
	})
	return s.guard(mux), nil
}

// healthz says whether the registry answers.
func (s *site) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if _, err := s.Registry.Counts(ctx); err != nil {
		s.Log.Error("registry does not answer", "err", err)
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "the registry does not answer")
		return
	}
	fmt.Fprintln(w, "ok")
}
