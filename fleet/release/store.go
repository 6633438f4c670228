package release

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// errUnsigned says that keys that must sign are not here.
var errUnsigned = errors.New("keys are missing")

// newest is the highest version of a role's file in the author's folder, 0 if there
// is none.
func (r *Repo) newest(role string) (int64, error) {
	if role == Timestamp {
		m, err := load[metadata.TimestampType](r, fileName(role, 0))
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		return m.Signed.Version, nil
	}
	names, err := filepath.Glob(r.path("metadata", "*."+role+".json"))
	if err != nil {
		return 0, err
	}
	var top int64
	for _, name := range names {
		number, _, _ := strings.Cut(filepath.Base(name), ".")
		if v, err := strconv.ParseInt(number, 10, 64); err == nil {
			top = max(top, v)
		}
	}
	return top, nil
}

// fileName follows TUF 1.0.34, section 6.2: all but the timestamp have a version in
// their name.
func fileName(role string, version int64) string {
	if role == Timestamp {
		return "timestamp.json"
	}
	return strconv.FormatInt(version, 10) + "." + role + ".json"
}

// read returns the newest file of a role.
func (r *Repo) read(role string) ([]byte, int64, error) {
	v, err := r.newest(role)
	if err != nil {
		return nil, 0, err
	}
	data, err := r.cfg.FS.ReadFile(r.path("metadata", fileName(role, v)), maxMetadata)
	if err != nil {
		return nil, 0, fmt.Errorf("read metadata of %s: %w", role, err)
	}
	return data, v, nil
}

func load[T metadata.Roles](r *Repo, name string) (*metadata.Metadata[T], error) {
	data, err := r.cfg.FS.ReadFile(r.path("metadata", name), maxMetadata)
	if err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	m, err := new(metadata.Metadata[T]).FromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("read metadata %s: %w", name, err)
	}
	return m, nil
}

// loadNewest returns nil, without an error, if the role has no file yet.
func loadNewest[T metadata.Roles](r *Repo, role string) (*metadata.Metadata[T], error) {
	v, err := r.newest(role)
	if err != nil || v == 0 {
		return nil, err
	}
	return load[T](r, fileName(role, v))
}

// save signs m with those keys of a role that are here, and writes it. Fewer than
// the threshold is an error, and nothing is written.
func save[T metadata.Roles](r *Repo, m *metadata.Metadata[T], role string, version int64, by ...*metadata.Role) error {
	here, err := r.found()
	if err != nil {
		return err
	}
	m.ClearSignatures()
	signed := make(map[string]bool)
	for _, set := range by {
		n := 0
		for _, id := range set.KeyIDs {
			k, ok := here[id]
			if !ok {
				continue
			}
			n++
			if signed[id] {
				continue
			}
			signed[id] = true
			if err := addSignature(m, k); err != nil {
				return fmt.Errorf("sign %s with %s: %w", role, k.file, err)
			}
		}
		if n < set.Threshold {
			return fmt.Errorf("sign %s: %d of its keys must sign, %d of %d are in %s: %w", role, set.Threshold, n, len(set.KeyIDs), strings.Join(r.cfg.Keys, ", "), errUnsigned)
		}
	}
	data, err := m.ToBytes(true)
	if err != nil {
		return fmt.Errorf("encode %s: %w", role, err)
	}
	if len(data) > maxMetadata {
		return fmt.Errorf("encode %s: %d bytes, devices read at most %d: withdraw old releases", role, len(data), maxMetadata)
	}
	return r.cfg.FS.WriteFile(r.path("metadata", fileName(role, version)), data, 0o644)
}

func addSignature[T metadata.Roles](m *metadata.Metadata[T], k keyPair) error {
	private, ok := k.signer.(ed25519.PrivateKey)
	if !ok {
		return errors.New("it is no Ed25519 key")
	}
	signer, err := signature.LoadED25519Signer(private)
	if err != nil {
		return err
	}
	_, err = m.Sign(signer)
	return err
}

// roleKeys returns the keys and thresholds in force, by role.
func (r *Repo) roleKeys() (map[string]*metadata.Role, error) {
	root, err := loadNewest[metadata.RootType](r, Root)
	if err != nil || root == nil {
		return nil, errors.Join(err, missing(root == nil, Root))
	}
	targets, err := loadNewest[metadata.TargetsType](r, Targets)
	if err != nil || targets == nil {
		return nil, errors.Join(err, missing(targets == nil, Targets))
	}
	roles := root.Signed.Roles
	if d := targets.Signed.Delegations; d != nil {
		for _, role := range d.Roles {
			roles[role.Name] = &metadata.Role{KeyIDs: role.KeyIDs, Threshold: role.Threshold}
		}
	}
	return roles, nil
}

func missing(is bool, role string) error {
	if !is {
		return nil
	}
	return fmt.Errorf("read metadata of %s: there is none", role)
}

// firstMetadata makes version 1 of root, targets and releases.
func (r *Repo) firstMetadata(o InitOptions) error {
	root := metadata.Root(r.expiry(Root))
	root.Signed.Roles[Root].Threshold = o.Threshold
	for role, count := range map[string]int{Root: o.RootKeys, Targets: 1, Snapshot: 1, Timestamp: 1} {
		for n := range count {
			if err := r.newRootKey(root, role, strconv.Itoa(n+1)); err != nil {
				return err
			}
		}
	}
	targets := metadata.Targets(r.expiry(Targets))
	k, err := r.makeKey(Releases, "1")
	if err != nil {
		return err
	}
	public, err := metadata.KeyFromPublicKey(k.signer.Public())
	if err != nil {
		return err
	}
	targets.Signed.Delegations = &metadata.Delegations{
		Keys: map[string]*metadata.Key{k.id: public},
		Roles: []metadata.DelegatedRole{{
			Name: Releases, KeyIDs: []string{k.id}, Threshold: 1, Terminating: true,
			// In a pattern * does not match a slash (TUF 1.0.34, section 4.5).
			Paths: []string{"releases/*/*/*.json", "releases/*/*/*/*.caibx"},
		}},
	}
	releases := metadata.Targets(r.expiry(Releases))
	return errors.Join(
		save(r, root, Root, 1, root.Signed.Roles[Root]),
		save(r, targets, Targets, 1, root.Signed.Roles[Targets]),
		save(r, releases, Releases, 1, &metadata.Role{KeyIDs: []string{k.id}, Threshold: 1}),
	)
}

func (r *Repo) newRootKey(root *metadata.Metadata[metadata.RootType], role, label string) error {
	k, err := r.makeKey(role, label)
	if err != nil {
		return err
	}
	public, err := metadata.KeyFromPublicKey(k.signer.Public())
	if err != nil {
		return err
	}
	if err := root.Signed.AddKey(public, role); err != nil {
		return err
	}
	slices.Sort(root.Signed.Roles[role].KeyIDs)
	return nil
}

// due says whether a file with this expiry should be signed again: half of its life
// is gone.
func (r *Repo) due(role string, expires time.Time) bool {
	return expires.Sub(r.cfg.Now()) < r.set.Lives.of(role)/2
}

// Root returns the newest root.json: what a new device is to pin.
func (r *Repo) Root() ([]byte, error) {
	data, _, err := r.read(Root)
	return data, err
}

func sum(data []byte) []byte {
	s := sha256.Sum256(data)
	return s[:]
}
