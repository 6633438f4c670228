package tuf

import (
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"path"
	"strings"
	"unicode"
)

// Target is a file that verified metadata names (section 4.5). Only a Set makes
// one; the zero value matches no bytes.
type Target struct {
	role, path string
	content    content
	custom     json.RawMessage
}

// Role is the targets role that names the file.
func (t Target) Role() string { return t.role }

// Path is the target's path in the repository: relative, with slashes, and safe
// to be put below a folder.
func (t Target) Path() string { return t.path }

// Length is the number of bytes.
func (t Target) Length() int64 { return t.content.length }

// Custom is the target's custom object as signed, with sorted keys, nil if there
// is none. The caller must not change it.
func (t Target) Custom() json.RawMessage { return t.custom }

// Check reads r to its end, or to one byte more than the target has, and refuses
// what is not the target (5.7.2).
func (t Target) Check(r io.Reader) error { return t.copy(io.Discard, r) }

func (t Target) copy(w io.Writer, r io.Reader) error {
	if len(t.content.hashes) == 0 {
		return refuse(t.path, "hash", "no hash is known")
	}
	return t.content.copy(t.path, w, r)
}

func readTarget(f fields, role, path string) Target {
	t := Target{role: role, path: path, content: readContent(f)}
	if t.content.length < 0 || t.content.hashes == nil {
		f.fault("length", "or hashes are missing")
	}
	if f.has("custom") {
		t.custom, _ = json.Marshal(f.object("custom").members) // of what was JSON
	}
	return t
}

// file is the target's name in the repository, as a URL: with consistent snapshots
// its hash comes before the last element (section 6.2).
func (t Target) file(consistent bool) string {
	name := t.path
	if consistent {
		sum, ok := t.content.hashes["sha256"]
		if !ok {
			sum = t.content.hashes["sha512"]
		}
		dir, base := path.Split(name)
		name = dir + hex.EncodeToString(sum) + "." + base
	}
	return (&url.URL{Path: name}).EscapedPath()
}

// safePath says whether a target's path stays inside whatever folder it is put
// in: relative, no empty, "." or ".." element, no backslash, no control character.
func safePath(p string) bool {
	if len(p) > MaxTargetPath || strings.Contains(p, `\`) || strings.ContainsFunc(p, unicode.IsControl) {
		return false
	}
	for element := range strings.SplitSeq(p, "/") {
		if element == "" || element == "." || element == ".." {
			return false
		}
	}
	return true
}
