package main

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

// The tests of this folder are the cases of the public conformance suite, by its
// names, against a repository that go-tuf authors: init, refresh and download with
// the suite's command line over HTTP, judged as it judges, by result, by what is in
// the metadata folder, by what was downloaded and by what was asked for.

type suite struct {
	t                   *testing.T
	repo                *tuftest.Repo
	url, meta, artefact string
}

// start returns a client that was given root version 1.
func start(t *testing.T) *suite {
	t.Helper()
	s := &suite{t: t, repo: tuftest.New(t), meta: filepath.Join(t.TempDir(), "metadata"), artefact: t.TempDir()}
	server := httptest.NewServer(s.repo)
	t.Cleanup(server.Close)
	s.url = server.URL
	s.setTime(tuftest.Epoch())
	s.init(s.repo.Served["root"][0])
	return s
}

// setTime puts a date command first in the path, which is how time is faked.
func (s *suite) setTime(now time.Time) {
	s.t.Helper()
	dir := s.t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho %d\n", now.Unix())
	if err := os.WriteFile(filepath.Join(dir, "date"), []byte(script), 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func (s *suite) init(root []byte) {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "initial_root.json")
	if err := os.WriteFile(path, root, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := run(s.t.Context(), []string{"--metadata-dir", s.meta, "init", path}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) refresh() error {
	return run(s.t.Context(), []string{"--metadata-dir", s.meta, "--metadata-url", s.url + "/metadata/", "refresh"})
}

func (s *suite) download(names ...string) error {
	args := []string{"--metadata-dir", s.meta, "--metadata-url", s.url + "/metadata", "--target-dir", s.artefact, "--target-base-url", s.url + "/targets/"}
	for _, name := range names {
		args = append(args, "--target-name", name)
	}
	return run(s.t.Context(), append(args, "download"))
}

// good and bad refresh and say what must be trusted then: "root=1 snapshot=1".
func (s *suite) good(trusted string) {
	s.t.Helper()
	if err := s.refresh(); err != nil {
		s.t.Fatalf("refresh: %v", err)
	}
	s.trusts(trusted)
}

func (s *suite) bad(trusted string) {
	s.t.Helper()
	if err := s.refresh(); err == nil {
		s.t.Fatal("refresh succeeded")
	}
	s.trusts(trusted)
}

func (s *suite) trusts(want string) {
	s.t.Helper()
	entries, err := os.ReadDir(s.meta)
	if err != nil {
		s.t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if role, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			all = append(all, fmt.Sprintf("%s=%v", role, tuftest.Parse(s.t, s.stored(role))["signed"].(map[string]any)["version"]))
		}
	}
	if got := strings.Join(all, " "); want != "" && got != want {
		s.t.Fatalf("trusted is %s, want %s", got, want)
	}
}

func (s *suite) stored(role string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.meta, role+".json"))
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

// asked compares what was asked for since the last call.
func (s *suite) asked(want ...string) {
	s.t.Helper()
	if !slices.Equal(s.repo.Asked, want) {
		s.t.Fatalf("asked for %q, want %q", s.repo.Asked, want)
	}
	s.repo.Asked = nil
}

func (s *suite) lastAsked(want string) {
	s.t.Helper()
	if len(s.repo.Asked) == 0 || s.repo.Asked[len(s.repo.Asked)-1] != want {
		s.t.Fatalf("asked for %q, want %q last", s.repo.Asked, want)
	}
}

// holds compares the downloaded files, by path.
func (s *suite) holds(want map[string]string) {
	s.t.Helper()
	got := make(map[string]string)
	err := filepath.WalkDir(s.artefact, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(s.artefact, path)
		got[rel] = string(data)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Fatalf("downloaded %q, want %q", got, want)
	}
}

func days(n int) time.Time { return tuftest.Epoch().AddDate(0, 0, n) }

const allFirst = "root=1 snapshot=1 targets=1 timestamp=1"
