package release

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/update/release"
)

// draft is draft.json: targets that are not signed yet.
type draft struct {
	Format int                         `json:"v"`
	Files  map[string]map[string]entry `json:"files"` // by role, by path
}

// entry is one target. A zero Length takes the target away.
type entry struct {
	Length int64           `json:"length"`
	SHA256 release.Digest  `json:"sha256"`
	Custom json.RawMessage `json:"custom,omitempty"`
}

func (r *Repo) loadDraft() (*draft, error) {
	d := draft{Format: formatVersion}
	err := r.cfg.FS.ReadJSON(r.path("draft.json"), maxDraft, &d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read draft: %w", err)
	}
	if d.Format != formatVersion {
		return nil, fmt.Errorf("read draft: it has format %d, this software reads %d", d.Format, formatVersion)
	}
	if d.Files == nil {
		d.Files = make(map[string]map[string]entry)
	}
	return &d, nil
}

func (d *draft) empty() bool {
	for _, files := range d.Files {
		if len(files) > 0 {
			return false
		}
	}
	return true
}

func (d *draft) put(role, path string, e entry) {
	if d.Files[role] == nil {
		d.Files[role] = make(map[string]entry)
	}
	d.Files[role][path] = e
}

func (r *Repo) saveDraft(d *draft) error {
	if err := r.cfg.FS.WriteJSON(r.path("draft.json"), d, 0o644); err != nil {
		return fmt.Errorf("write draft: %w", err)
	}
	return nil
}

// file is the content of a target to be.
type file struct {
	path   string
	data   []byte
	custom json.RawMessage
}

// stage keeps the contents, then the entries: an entry never lacks its file.
func (r *Repo) stage(role string, files ...file) error {
	d, err := r.loadDraft()
	if err != nil {
		return err
	}
	for _, f := range files {
		e := entry{Length: int64(len(f.data)), SHA256: release.Digest(sum(f.data)), Custom: f.custom}
		to := r.path("targets", filepath.FromSlash(hashedName(f.path, e.SHA256[:])))
		if err := r.cfg.FS.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fmt.Errorf("stage %s: %w", f.path, err)
		}
		if err := r.cfg.FS.WriteFile(to, f.data, 0o644); err != nil {
			return fmt.Errorf("stage %s: %w", f.path, err)
		}
		d.put(role, f.path, e)
	}
	return r.saveDraft(d)
}

// hashedName is where a repository with consistent snapshots has a target.
func hashedName(name string, hash []byte) string {
	dir, base := path.Split(name)
	return dir + hex.EncodeToString(hash) + "." + base
}

// entries are the targets of a role as they will be: signed ones, and the draft
// over them.
func (r *Repo) entries(role string) (map[string]entry, error) {
	m, err := loadNewest[metadata.TargetsType](r, role)
	if err != nil || m == nil {
		return nil, errors.Join(err, missing(m == nil, role))
	}
	d, err := r.loadDraft()
	if err != nil {
		return nil, err
	}
	all := make(map[string]entry)
	for name, t := range m.Signed.Targets {
		if all[name], err = fromTUF(t); err != nil {
			return nil, fmt.Errorf("read target %s: %w", name, err)
		}
	}
	for name, e := range d.Files[role] {
		if e.Length == 0 {
			delete(all, name)
			continue
		}
		all[name] = e
	}
	return all, nil
}

func fromTUF(t *metadata.TargetFiles) (entry, error) {
	hash := t.Hashes["sha256"]
	if len(hash) != len(release.Digest{}) {
		return entry{}, errors.New("it has no SHA-256")
	}
	e := entry{Length: t.Length, SHA256: release.Digest(hash)}
	if t.Custom != nil {
		e.Custom = *t.Custom
	}
	return e, nil
}

func (e entry) toTUF() *metadata.TargetFiles {
	t := &metadata.TargetFiles{Length: e.Length, Hashes: metadata.Hashes{"sha256": e.SHA256[:]}}
	if len(e.Custom) > 0 {
		t.Custom = &e.Custom
	}
	return t
}

// content reads a target that was staged, now or earlier, and checks it.
func (r *Repo) content(name string, e entry) ([]byte, error) {
	data, err := r.cfg.FS.ReadFile(r.path("targets", filepath.FromSlash(hashedName(name, e.SHA256[:]))), max(e.Length, 1))
	if err != nil {
		return nil, fmt.Errorf("read target %s: %w", name, err)
	}
	if int64(len(data)) != e.Length || release.Digest(sum(data)) != e.SHA256 {
		return nil, fmt.Errorf("read target %s: the file is damaged", name)
	}
	return data, nil
}

// stagePolicyKeys makes a target of the public PCR-policy keys of a product.
func (r *Repo) stagePolicyKeys(product string) error {
	signers, err := r.policySigners(product)
	if err != nil {
		return err
	}
	var text []byte
	for _, k := range signers {
		der, err := tpmpolicy.MarshalKey(k.signer.Public())
		if err != nil {
			return err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	return r.stage(Targets, file{path: policyKeysPath(product), data: text})
}

// policyKeysPath is a target with the public PCR-policy keys of a product as PEM
// blocks, the one to seal to first.
func policyKeysPath(product string) string { return "policy/pcr/" + product + ".pem" }
