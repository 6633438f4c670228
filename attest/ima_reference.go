package attest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// imaReference is an IMAPolicy with its lists and keys, compiled once and shared by
// all appraisals. Safe for concurrent use.
type imaReference struct {
	digest Digest
	files  map[string]struct{} // digest and path
	keys   []fileKey

	mu   sync.Mutex
	good map[Digest]struct{} // signatures that were found good
}

func newIMAReference(p *IMAPolicy, digest Digest, read func(Digest) ([]byte, error)) (*imaReference, error) {
	r := &imaReference{digest: digest, files: make(map[string]struct{}), good: make(map[Digest]struct{})}
	size := 0
	for _, list := range p.Lists {
		data, err := read(list)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", list, err)
		}
		if size += len(data); size > maxAllowList {
			return nil, fmt.Errorf("lists of more than %d bytes", maxAllowList)
		}
		if sha256.Sum256(data) != list {
			return nil, fmt.Errorf("list %s: it has another SHA-256 than its name says", list)
		}
		if err := r.readFiles(data); err != nil {
			return nil, fmt.Errorf("list %s: %w", list, err)
		}
	}
	for i, text := range p.Keys {
		key, err := readFileKey(text)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		r.keys = append(r.keys, key)
	}
	return r, nil
}

// short is what a state remembers of the reference that judged it.
func (r *imaReference) short() (out [16]byte) {
	if r != nil {
		copy(out[:], r.digest[:])
	}
	return out
}

func (r *imaReference) readFiles(list []byte) error {
	lines := bufio.NewScanner(bytes.NewReader(list))
	lines.Buffer(nil, maxPath+1024)
	empty := true
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		text, path, _ := strings.Cut(line, " ")
		path = strings.TrimPrefix(strings.TrimPrefix(path, " "), "*")
		digest, err := hex.DecodeString(text)
		switch {
		case err != nil || len(digest) != 20 && len(digest) != 32 && len(digest) != 48 && len(digest) != 64:
			return fmt.Errorf("line %d: %.80q is no digest in the form of sha256sum", n, text)
		case len(digest) == 20:
			return fmt.Errorf("line %d: SHA-1, which can be forged: boot the kernel with ima_hash=sha256 and list SHA-256", n)
		case path == "" || len(path) > maxPath:
			return fmt.Errorf("line %d: path of %d bytes", n, len(path))
		}
		r.files[fileName(digest, []byte(path))] = struct{}{}
		empty = false
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if empty {
		return errors.New("it lists no file")
	}
	return nil
}

// fileName is the key of a file: the kernel writes "_" for a space in a path, so
// that its ASCII list can be read.
func fileName(digest, path []byte) string {
	key := append(make([]byte, 0, len(digest)+len(path)), digest...)
	return string(append(key, bytes.ReplaceAll(path, []byte(" "), []byte("_"))...))
}

// judge returns the rule that an entry breaks, and why; "" if it is allowed.
func (r *imaReference) judge(e *imaEntry) (rule, why string) {
	switch {
	case e.violation:
		return ruleIMAViolations, ""
	case e.digest == nil:
		return ruleIMAFiles, "its template can't be read"
	case fileDigestSize(string(e.algorithm)) != len(e.digest):
		return ruleIMAFiles, "its digest is not SHA-256, SHA-384 or SHA-512"
	}
	var room [256]byte
	key := append(append(room[:0], e.digest...), e.path...)
	if _, ok := r.files[string(key)]; ok {
		return "", ""
	}
	rule, why = ruleIMAFiles, "not signed"
	if len(e.signature) > 0 {
		rule, why = r.verifyFile(e)
	}
	if rule != "" && len(e.modsig) > 0 {
		rule, why = r.verifyModule(e)
	}
	if rule == "" {
		return "", ""
	}
	return rule, "it is not listed, and " + why
}

func fileDigestSize(algorithm string) int {
	switch algorithm {
	case "sha256":
		return 32
	case "sha384":
		return 48
	case "sha512":
		return 64
	}
	return -1
}
