package release

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// minID is how many hex digits name a key.
const minID = 8

// Rotate puts a new key in the place of one of a role's keys: id is the beginning of
// the old one's id, and may be empty if the role has one key. A key of root, targets,
// snapshot or timestamp takes a new root, which the old root's keys and the new one's
// sign; one of releases takes the key of targets. What the old key signed is signed
// again by the next Sign and Publish. The old private key is left where it is.
func (r *Repo) Rotate(role, id string) error {
	old, err := r.oldKey(role, id)
	if err == nil && role == Releases {
		err = r.rotateReleases(old)
	} else if err == nil {
		err = r.newRoot(func(root *metadata.Metadata[metadata.RootType]) error {
			if err := root.Signed.RevokeKey(old, role); err != nil {
				return err
			}
			return r.newRootKey(root, role, labelOf(root.Signed.Version+1))
		})
	}
	if err != nil {
		return fmt.Errorf("rotate key of %s: %w", role, err)
	}
	return nil
}

// RenewRoot signs the root again, with a new expiry and the same keys.
func (r *Repo) RenewRoot() error {
	if err := r.newRoot(func(*metadata.Metadata[metadata.RootType]) error { return nil }); err != nil {
		return fmt.Errorf("renew root: %w", err)
	}
	return nil
}

// newRoot writes the next root, signed by the keys of the old one and of the new
// one (TUF 1.0.34, section 5.3.4).
func (r *Repo) newRoot(change func(*metadata.Metadata[metadata.RootType]) error) error {
	root, err := loadNewest[metadata.RootType](r, Root)
	if err != nil || root == nil {
		return errors.Join(err, missing(root == nil, Root))
	}
	before := *root.Signed.Roles[Root]
	before.KeyIDs = slices.Clone(before.KeyIDs)
	if err := change(root); err != nil {
		return err
	}
	root.Signed.Version++
	root.Signed.Expires = r.expiry(Root)
	return save(r, root, Root, root.Signed.Version, &before, root.Signed.Roles[Root])
}

func (r *Repo) rotateReleases(old string) error {
	roles, err := r.roleKeys()
	if err != nil {
		return err
	}
	targets, err := loadNewest[metadata.TargetsType](r, Targets)
	if err != nil {
		return err
	}
	k, err := r.makeKey(Releases, labelOf(targets.Signed.Version+1))
	if err != nil {
		return err
	}
	public, err := metadata.KeyFromPublicKey(k.signer.Public())
	if err != nil {
		return err
	}
	if err := targets.Signed.RevokeKey(old, Releases); err != nil {
		return err
	}
	if err := targets.Signed.AddKey(public, Releases); err != nil {
		return err
	}
	targets.Signed.Version++
	targets.Signed.Expires = r.expiry(Targets)
	return save(r, targets, Targets, targets.Signed.Version, roles[Targets])
}

func (r *Repo) oldKey(role, id string) (string, error) {
	roles, err := r.roleKeys()
	if err != nil {
		return "", err
	}
	set, ok := roles[role]
	if !ok {
		return "", fmt.Errorf("there is no role %q", role)
	}
	if id == "" && len(set.KeyIDs) == 1 {
		return set.KeyIDs[0], nil
	}
	var fits []string
	for _, k := range set.KeyIDs {
		if len(id) >= minID && strings.HasPrefix(k, id) {
			fits = append(fits, k)
		}
	}
	if len(fits) != 1 {
		return "", fmt.Errorf("%q names none of its keys: give %d hex digits or more of one of %s", id, minID, strings.Join(set.KeyIDs, ", "))
	}
	return fits[0], nil
}

// labelOf is the part of a new key's file name that says which version of the file
// above it brought the key in.
func labelOf(version int64) string { return "v" + strconv.FormatInt(version, 10) }
