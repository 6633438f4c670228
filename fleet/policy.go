package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/fsx"
	contents "github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

const (
	policyFolder   = "policy/"
	policyTarget   = policyFolder + "attest.json"
	releasePaths   = "releases/"
	policyPatience = 10 * time.Second // the repository is a local folder
	maxPolicy      = 1 << 20          // bytes
)

// policyFeed is the owner's update repository as the source of the attestation
// policy, and of the releases that the dashboard lists: reference values come with the releases, and nobody touches them here.
// The server trusts what the owner's root signed, not the folder.
type policyFeed struct {
	fleet     string
	timestamp string // file

	mu     sync.Mutex
	client *tuf.Client
	last   []byte    // the document in force
	seen   time.Time // when the timestamp that was looked at last was written

	releases []*contents.Release // of the repository as it was last taken in
	fault    error               // why what is there now was not, or not whole
}

// newPolicyFeed returns nil where the owner's root.json is not installed beside
// fleet.json: then the policy file alone counts.
func newPolicyFeed(s Settings, now func() time.Time) (*policyFeed, error) {
	files := &fsx.FS{}
	root, err := files.ReadFile(filepath.Join(s.State, "trust", "root.json"), tuf.MaxRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read root of the update repository: %w", err)
	}
	client, err := tuf.New(tuf.Config{
		FS: files, Dir: filepath.Join(s.State, "tuf"), Root: root, Now: now,
		Metadata: folder(filepath.Join(s.Updates, "metadata")), Targets: folder(filepath.Join(s.Updates, "targets")),
	})
	if err != nil {
		return nil, err
	}
	return &policyFeed{fleet: s.Fleet, timestamp: filepath.Join(s.Updates, "metadata", "timestamp.json"), client: client}, nil
}

// newer returns the policy if it is another one than last time, else nil. It shares
// with inForce, which may be nil, the lists that both name.
func (f *policyFeed) newer(ctx context.Context, inForce *attest.Policy) (*attest.Policy, error) {
	if f.fault = f.client.Refresh(ctx); f.fault != nil {
		return nil, f.fault
	}
	f.list(ctx)
	raw, err := f.document(ctx, policyTarget, maxPolicy)
	if errors.Is(err, tuf.ErrNoTarget) || err == nil && bytes.Equal(raw, f.last) {
		return nil, nil // the owner leaves it to the policy file; or nothing is new
	}
	if err != nil {
		return nil, err
	}
	p, err := attest.ParsePolicy(raw)
	if err != nil {
		return nil, err
	}
	if p.Fleet != f.fleet {
		return nil, fmt.Errorf("the repository's policy is for the fleet %q, this is %q", p.Fleet, f.fleet)
	}
	if err := p.ReadLists(func(list attest.Digest) ([]byte, error) {
		return f.document(ctx, policyFolder+attest.IMAList(list), maxList)
	}, inForce); err != nil {
		return nil, err
	}
	f.last = raw
	return p, nil
}

// document returns the content of a target of at most limit bytes.
func (f *policyFeed) document(ctx context.Context, path string, limit int64) ([]byte, error) {
	target, err := f.client.Target(ctx, path)
	if err != nil {
		return nil, err
	}
	if target.Length() > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed", path, target.Length(), limit)
	}
	var raw bytes.Buffer
	if err := f.client.Download(ctx, target, &raw); err != nil {
		return nil, err
	}
	return raw.Bytes(), nil
}

// list takes in the releases. One that can't be read doesn't hide the others.
func (f *policyFeed) list(ctx context.Context) {
	// What is not there makes the client load every role that could name it.
	if _, err := f.client.Target(ctx, releasePaths+"0/0/0.json"); !errors.Is(err, tuf.ErrNoTarget) {
		f.fault = err
		return
	}
	f.releases = nil
	for _, path := range f.client.Paths() {
		if !strings.HasPrefix(path, releasePaths) || !strings.HasSuffix(path, ".json") {
			continue
		}
		target, err := f.client.Target(ctx, path)
		if errors.Is(err, tuf.ErrNoTarget) {
			continue // named by a role that has no say there
		}
		var one *contents.Release
		if err == nil {
			one, err = contents.Parse(target.Custom())
		}
		if err != nil {
			f.fault = errors.Join(f.fault, fmt.Errorf("read %s: %w", path, err))
			continue
		}
		f.releases = append(f.releases, one)
	}
}

// releases are those of the repository as it was last taken in. An error beside
// them says why they are not all that is served.
func (s *Server) releases(context.Context) ([]*contents.Release, error) {
	s.currentPolicy() // takes in what was published since
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.feed.releases, s.feed.fault
}

// openPolicy takes the policy of the repository, else the policy file.
func (s *Server) openPolicy() (err error) {
	if s.feed, err = newPolicyFeed(s.settings, s.now); err != nil {
		return err
	}
	if s.feed != nil {
		s.feed.changed()
		p, err := s.feed.newer(context.Background(), nil)
		if err != nil {
			s.log.Warn("the update repository gives no attestation policy; the policy file counts", "error", err)
		}
		if p != nil {
			s.policy.Store(p)
			return nil
		}
	}
	p, err := ReadPolicy(s.settings.Policy)
	if err != nil {
		return fmt.Errorf("%w\nhint: `policy` in fleet.toml names it; docs/policy.md describes it", err)
	}
	if p.Fleet != s.settings.Fleet {
		return fmt.Errorf("%s is for the fleet %q, this is %q\nhint: `policy` in fleet.toml names the file", s.settings.Policy, p.Fleet, s.settings.Fleet)
	}
	s.policy.Store(p)
	return nil
}

// currentPolicy is what the next appraisal goes by: what the owner published last.
// What does not verify changes nothing.
func (s *Server) currentPolicy() *attest.Policy {
	if s.feed == nil {
		return s.policy.Load()
	}
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if !s.feed.changed() {
		return s.policy.Load()
	}
	ctx, cancel := context.WithTimeout(context.Background(), policyPatience)
	defer cancel()
	p, err := s.feed.newer(ctx, s.policy.Load())
	if err != nil {
		s.log.Error("the update repository was not taken in", "error", err)
	}
	if p != nil {
		s.policy.Store(p)
		s.log.Info("new attestation policy", "issued", p.Issued, "releases", len(p.Releases))
	}
	return s.policy.Load()
}

// changed reports whether the repository was published anew since it was asked
// last: the timestamp is what a publication replaces at the end.
func (f *policyFeed) changed() bool {
	info, err := os.Stat(f.timestamp)
	if err != nil || info.ModTime().Equal(f.seen) {
		return false
	}
	f.seen = info.ModTime()
	return true
}

// folder is a tuf.Fetcher of files.
type folder string

func (f folder) Fetch(_ context.Context, name string, _ int64) (io.ReadCloser, error) {
	path, err := url.PathUnescape(name)
	if err != nil {
		return nil, fmt.Errorf("unescape %.80q: %w", name, err)
	}
	root, err := os.OpenRoot(string(f))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file, err := root.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", tuf.ErrNoFile, err)
	}
	return file, err
}
