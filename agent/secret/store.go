package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/seal"
)

// Limits, in bytes unless the name says otherwise.
const (
	MaxName    = 64  // the name of a secret
	MaxSecrets = 256 // secrets, count
	maxAsked   = 83  // a unit and the name of its secret
)

const (
	current = ".sealed" // the file that counts
	coming  = ".next"   // the same secret, for the counter's coming value
	pinFile = "storage-key"
	pinSize = 34 // bytes: a Name with SHA-256
)

// ErrAbsent says that there is no secret of that name.
var ErrAbsent = errors.New("no such secret")

// ErrPending says that a re-seal is under way: Settle or Abort it first. What were
// stored now would be lost when the counter is raised.
var ErrPending = errors.New("a re-seal is under way")

// Config is what a Store needs. All fields must be set, but Policy in a process that
// only reads.
type Config struct {
	FS  *fsx.FS
	Dir string // of the sealed files; made if it is not there
	TPM *tpm.TPM
	// Policy is to what new secrets are sealed, at present: Name, Unit and Storage
	// are filled in by the Store. Without it nothing is written.
	Policy func(context.Context) (seal.Policy, error)
	// Signed are the PCR policies of the running release.
	Signed func(context.Context) ([]tpmpolicy.Signed, error)
	Log    *slog.Logger
}

// Store is the folder of sealed secrets. Safe for concurrent use within a process;
// only one process may write.
type Store struct {
	c  Config
	mu sync.Mutex
}

// Item is a stored secret, without what it hides.
type Item struct {
	Name  string
	Unit  string // systemd unit that may have it, or ""
	Epoch uint64 // security epoch for which it was sealed
	Until string // boot phase in which it shuts, or ""
	Key   []byte // SubjectPublicKeyInfo of the PCR-policy key that it follows
	PCRs  []int  // to which it is sealed
	Boots int    // that open it without a signature of the owner, count; 0 with Key
	// Damaged is why its file can't be read, or nil.
	Damaged error
}

// New makes the folder, where there is a Policy.
func New(c Config) (*Store, error) {
	if c.FS == nil || c.Dir == "" || c.TPM == nil || c.Signed == nil || c.Log == nil {
		return nil, errors.New("open secret store: the configuration is not complete")
	}
	if c.Policy != nil {
		if err := c.FS.MkdirAll(c.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("open secret store: %w", err)
		}
	}
	c.Log = c.Log.With("part", "secret")
	return &Store{c: c}, nil
}

// CheckName accepts what is a file name, a systemd credential name and nothing else.
func CheckName(name string) error {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	if name == "" || len(name) > MaxName || strings.Trim(name, first+"._-") != "" || !strings.Contains(first, name[:1]) {
		return fmt.Errorf("name is %.70q, it must have up to %d of a-z, 0-9, dot, hyphen and underscore, and begin with a letter or digit", name, MaxName)
	}
	return nil
}

// checkUnit accepts a unit that systemd can ask for: one that runs programs, an
// instance and not its template, and with the secret's name short enough for the
// address that systemd asks from (107 bytes: "@", 16 digits, "/unit/", unit, "/", name).
func checkUnit(unit, name string) error {
	if unit == "" {
		return nil
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.\\-@"
	prefix, kind := unit, ""
	if i := strings.LastIndex(unit, "."); i > 0 {
		prefix, kind = unit[:i], unit[i:]
	}
	switch {
	case strings.Trim(unit, letters) != "" || !slices.Contains([]string{".service", ".socket", ".mount", ".swap"}, kind):
		return fmt.Errorf("unit is %.70q, it must be the whole name of a service, socket, mount or swap, such as wireguard.service", unit)
	case strings.HasSuffix(prefix, "@"):
		return fmt.Errorf("unit is %.70q, a template: name the instance, such as %[2]sone%[3]s", unit, prefix, kind)
	case len(unit)+len(name) > maxAsked:
		return fmt.Errorf("unit and name have %d bytes, systemd can ask for %d together", len(unit)+len(name), maxAsked)
	}
	return nil
}

func (s *Store) path(name, kind string) string { return filepath.Join(s.c.Dir, name+kind) }

// Put seals a secret and stores it in place of one of the same name. It is opened
// once before it replaces anything: what this boot could not open would be lost.
func (s *Store) Put(ctx context.Context, name string, terms Terms, secret []byte) error {
	if err := errors.Join(CheckName(name), checkUnit(terms.Unit, name)); err != nil {
		return fmt.Errorf("store secret: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.put(ctx, name, terms, secret, s.c.Policy); err != nil {
		return fmt.Errorf("store secret %s: %w", name, err)
	}
	s.c.Log.Info("secret stored", "name", name, "unit", terms.Unit)
	return nil
}

func (s *Store) put(ctx context.Context, name string, terms Terms, secret []byte, to func(context.Context) (seal.Policy, error)) error {
	names, err := s.names(current)
	if err != nil {
		return err
	}
	if len(names) >= MaxSecrets && !slices.Contains(names, name) {
		return fmt.Errorf("there are %d already, no more are allowed", len(names))
	}
	pending, err := s.names(coming)
	if err != nil {
		return err
	}
	if len(pending) != 0 {
		return ErrPending
	}
	if to == nil {
		return errors.New("this process only reads secrets")
	}
	policy, err := to(ctx)
	if err != nil {
		return err
	}
	if terms.Until != "" && policy.Key == nil {
		return errors.New("a secret that shuts in a phase of the boot needs a release with PCR policies")
	}
	blob, err := s.seal(ctx, policy, name, terms, secret)
	if err != nil {
		return err
	}
	if _, err := s.open(ctx, blob, name, anybody); err != nil && !(terms.Until != "" && isPast(err)) {
		return fmt.Errorf("check that it opens: %w", err)
	}
	return s.c.FS.WriteFile(s.path(name, current), blob, 0o600)
}

// List reads what is stored, sorted by name, without opening anything.
func (s *Store) List() ([]Item, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.names(current)
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	items := make([]Item, 0, len(names))
	for _, name := range names {
		item := Item{Name: name}
		blob, err := s.read(name, current)
		if err == nil {
			var info seal.Info
			info, err = seal.Inspect(blob)
			item.Unit, item.Epoch, item.Until, item.Key, item.PCRs, item.Boots = info.Unit, info.Ref.Epoch, info.Ref.Until, info.Key, info.Ref.PCRs, info.Boots
		}
		item.Damaged = err
		items = append(items, item)
	}
	return items, nil
}

// names lists the secrets that have a file of a kind, sorted.
func (s *Store) names(kind string) ([]string, error) {
	entries, err := os.ReadDir(s.c.Dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), kind); ok && CheckName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Remove forgets a secret. ErrAbsent if there is none.
func (s *Store) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return fmt.Errorf("remove secret: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The coming one first: alone, it would come back.
	if err := s.c.FS.Remove(s.path(name, coming)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove secret %s: %w", name, err)
	}
	err := s.c.FS.Remove(s.path(name, current))
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrAbsent
	}
	if err != nil {
		return fmt.Errorf("remove secret %s: %w", name, err)
	}
	s.c.Log.Info("secret removed", "name", name)
	return nil
}

// Reset forgets all secrets and the chip that sealed them: what remains to be done
// when the TPM was cleared or exchanged, after the device was enrolled again.
func (s *Store) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kind := range []string{coming, current} {
		names, err := s.names(kind)
		if err != nil {
			return fmt.Errorf("forget secrets: %w", err)
		}
		for _, name := range names {
			if err := s.c.FS.Remove(s.path(name, kind)); err != nil {
				return fmt.Errorf("forget secrets: %w", err)
			}
		}
	}
	if err := s.c.FS.Remove(filepath.Join(s.c.Dir, pinFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget secrets: %w", err)
	}
	s.c.Log.Info("all secrets forgotten")
	return nil
}
