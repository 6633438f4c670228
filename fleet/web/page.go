package web

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
)

// frame is what the layout needs around a page's body.
type frame struct {
	Title, Fleet, Version string
	Device                string // id, on a device page
	Page                  string // fleet or releases, to mark it in the header; else ""
	Live                  bool   // worth watching
	Now                   moment
	Body                  any

	assets *assets
}

// Asset is the address of a file in static/.
func (f frame) Asset(name string) string { return f.assets.hrefs[name] }

func parsePages() (map[string]*template.Template, error) {
	pages := map[string]*template.Template{}
	for _, name := range []string{"fleet", "device", "releases", "sorry"} {
		t, err := template.ParseFS(embedded, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("parse page %s: %w", name, err)
		}
		pages[name] = t
	}
	return pages, nil
}

// show renders a page whole before the first byte goes out, so that a page that
// can't be rendered is an error page and not half of one.
func (s *site) show(w http.ResponseWriter, r *http.Request, status int, name string, f frame) {
	now := s.Now()
	f.Fleet, f.Version, f.Now, f.assets = plain(s.Fleet), s.Version, at(now, now), s.assets
	var page bytes.Buffer
	if err := s.pages[name].Execute(&page, f); err != nil {
		s.Log.Error("page could not be rendered", "page", name, "err", err)
		http.Error(w, "this page could not be shown; the fleet server's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(page.Len()))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(page.Bytes()) // the browser has gone: nobody is left to be told
	}
}

// sorry answers with a page that says what happened and what to do.
func (s *site) sorry(w http.ResponseWriter, r *http.Request, status int, title, text string) {
	s.show(w, r, status, "sorry", frame{Title: title, Body: struct{ Title, Text string }{title, text}})
}

// broken answers a page whose queries failed.
func (s *site) broken(w http.ResponseWriter, r *http.Request, err error) {
	s.Log.Error("page could not be read from the registry", "path", r.URL.Path, "err", err)
	s.sorry(w, r, http.StatusServiceUnavailable, "The registry did not answer",
		"Gateways are not affected by this page. The fleet server's log says what failed; try again in a moment.")
}
