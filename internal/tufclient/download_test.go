package main

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

func (s *suite) mustDownload(names ...string) {
	s.t.Helper()
	if err := s.download(names...); err != nil {
		s.t.Fatal(err)
	}
}

func TestClientDownloadsExpectedFiles(t *testing.T) {
	for _, consistent := range []bool{true, false} {
		t.Run(fmt.Sprint("consistent snapshot ", consistent), func(t *testing.T) {
			s := start(t)
			s.repo.Root.Signed.ConsistentSnapshot = consistent
			want := map[string]string{"target_file.txt": "target file contents", "path/to/a/target file?.txt": "other"}
			for path, data := range want {
				s.repo.AddTarget("targets", path, []byte(data))
			}
			s.repo.PublishAll()
			s.good("root=2 snapshot=2 targets=2 timestamp=2")
			s.holds(nil)
			s.mustDownload("target_file.txt", "path/to/a/target file?.txt")
			s.holds(want)
		})
	}
}

func TestRepositorySubstitutesTargetFile(t *testing.T) {
	s := start(t)
	s.repo.AddTarget("targets", "one", []byte("first content"))
	s.repo.AddTarget("targets", "two", []byte("second content"))
	s.repo.Publish("targets", "snapshot", "timestamp")
	s.mustDownload("one")
	for _, evil := range []string{"malicious cont", "short", "malicious data that is longer"} {
		s.repo.Files["one"], s.repo.Files["two"] = []byte(evil), []byte(evil)
		s.mustDownload("one") // what is there is good, and is not fetched again
		if s.download("two") == nil {
			t.Error("malicious data was accepted")
		}
		s.holds(map[string]string{"one": "first content"})
	}
}

func TestMultipleChangesToTarget(t *testing.T) {
	s := start(t)
	want := make(map[string]string)
	for i := range 11 {
		want["target_file.txt"] = fmt.Sprint("modified contents ", i)
		s.repo.AddTarget("targets", "target_file.txt", []byte(want["target_file.txt"]))
		added := fmt.Sprint("new-target-", i)
		s.repo.AddTarget("targets", added, []byte(added))
		s.repo.Publish("targets", "snapshot", "timestamp")
		if i%5 != 0 {
			continue
		}
		want[added] = added
		s.mustDownload("target_file.txt", added)
		s.holds(want)
		s.repo.Files["target_file.txt"] = []byte("malicious")
		s.repo.Publish("targets", "snapshot", "timestamp")
		s.mustDownload("target_file.txt")
		s.holds(want)
	}
}

func TestDownloadWithHashAlgorithms(t *testing.T) {
	data := []byte("target file contents")
	sum256, sum512 := sha256.Sum256(data), sha512.Sum512(data)
	for name, c := range map[string]struct {
		hashes metadata.Hashes
		good   bool
	}{
		"sha256":             {metadata.Hashes{"sha256": sum256[:]}, true},
		"sha512":             {metadata.Hashes{"sha512": sum512[:]}, true},
		"both":               {metadata.Hashes{"sha256": sum256[:], "sha512": sum512[:]}, true},
		"both, one is wrong": {metadata.Hashes{"sha256": sum256[:], "sha512": make([]byte, 64)}, false},
		"unknown":            {metadata.Hashes{"unknown-hash": sum512[:]}, false},
		"one is unknown":     {metadata.Hashes{"unknown-hash": sum512[:], "sha256": sum256[:]}, true},
		"none":               {metadata.Hashes{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.repo.AddTarget("targets", "file", data)
			s.repo.Targets["targets"].Signed.Targets["file"].Hashes = c.hashes
			s.repo.Publish("targets", "snapshot", "timestamp")
			if err := s.download("file"); (err == nil) != c.good {
				t.Fatalf("download: %v", err)
			}
			want := map[string]string{}
			if c.good {
				want["file"] = string(data)
				if len(s.repo.AskedTargets) != 1 {
					t.Errorf("asked for %q", s.repo.AskedTargets)
				}
			}
			s.holds(want)
		})
	}
}

func TestArtifactCache(t *testing.T) {
	s := start(t)
	s.repo.AddTarget("targets", "file", []byte("content"))
	s.repo.Publish("targets", "snapshot", "timestamp")
	s.mustDownload("file")
	s.mustDownload("file")
	sum := sha256.Sum256([]byte("content"))
	if want := hex.EncodeToString(sum[:]) + ".file"; len(s.repo.AskedTargets) != 1 || s.repo.AskedTargets[0] != want {
		t.Errorf("asked for %q, want %s once", s.repo.AskedTargets, want)
	}
}

func TestWrongUseIsAnErrorAndChangesNothing(t *testing.T) {
	s := start(t)
	for _, args := range [][]string{
		{}, {"refresh"}, {"--metadata-dir", s.meta}, {"--metadata-dir", s.meta, "init"}, {"--metadata-dir", s.meta, "init", "/nonexistent"},
		{"--metadata-dir", s.meta, "refresh"}, {"--metadata-dir", s.meta, "--metadata-url", s.url, "remove"},
		{"--metadata-dir", s.meta, "--metadata-url", "file:///etc", "refresh"}, {"--metadata-dir", t.TempDir(), "--metadata-url", s.url, "refresh"},
		{"--unknown"}, {"--metadata-dir", s.meta, "--metadata-url", s.url, "refresh", "more"},
	} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q succeeded", args)
		}
	}
	s.trusts("root=1")
	s.asked()
}

// The program itself: what the suite starts, and its exit codes.
func TestTheProgramExitsWith0Or1(t *testing.T) {
	s := start(t)
	s.repo.AddTarget("targets", "file", []byte("content"))
	s.repo.Publish("targets", "snapshot", "timestamp")
	program := filepath.Join(t.TempDir(), "tufclient")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	common := []string{"--metadata-dir", s.meta, "--metadata-url", s.url + "/metadata"}
	for _, c := range []struct {
		args string
		want int
	}{
		{"refresh", 0}, {"--target-name file --target-base-url " + s.url + "/targets --target-dir " + s.artefact + " download", 0},
		{"--target-name gone --target-base-url " + s.url + "/targets --target-dir " + s.artefact + " download", 1}, {"nonsense", 1}, {"", 1},
	} {
		cmd := exec.Command(program, append(common, strings.Fields(c.args)...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		err := cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != c.want {
			t.Errorf("%q: exit code %d, want %d (%v)", c.args, got, c.want, err)
		}
	}
	s.holds(map[string]string{"file": "content"})
	s.setTime(tuftest.Epoch().AddDate(0, 0, 31))
	if err := exec.Command(program, append(common, "refresh")...).Run(); err == nil {
		t.Error("all is expired by the faked clock, but refresh succeeded")
	}
}
