package attest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
)

// IMAReference says which files the gateways of a fleet may read and run: those of an
// allow-list, and those that one of some keys signed. It is compiled once and shared
// by all appraisals; Digest names it. Safe for concurrent use.
type IMAReference struct {
	digest Digest
	files  map[string]struct{} // digest and path
	keys   map[[4]byte][]fileKey

	mu   sync.Mutex
	good map[Digest]struct{} // signatures that were found good
}

// NewIMAReference compiles an allow-list in the form of sha256sum, sha384sum or
// sha512sum (`digest  path`, a line each, `#` for a remark) and keys: PEM of public
// keys or certificates, P-256, P-384 or RSA of 2048 to 4096 bits. Either may be empty,
// not both: then nothing would be allowed.
func NewIMAReference(allowList, keys []byte) (*IMAReference, error) {
	if len(allowList) > maxAllowList {
		return nil, fmt.Errorf("read allow-list: %d bytes, at most %d are allowed", len(allowList), maxAllowList)
	}
	r := &IMAReference{files: make(map[string]struct{}), keys: make(map[[4]byte][]fileKey), good: make(map[Digest]struct{})}
	list, signers := sha256.Sum256(allowList), sha256.Sum256(keys)
	r.digest = sha256.Sum256(append(list[:], signers[:]...))
	if err := r.readFiles(allowList); err != nil {
		return nil, fmt.Errorf("read allow-list: %w", err)
	}
	if err := r.readKeys(keys); err != nil {
		return nil, fmt.Errorf("read keys of files: %w", err)
	}
	if len(r.files) == 0 && len(r.keys) == 0 {
		return nil, fmt.Errorf("read allow-list: it allows no file, and there is no key")
	}
	return r, nil
}

// Digest names the reference: SHA-256 over the SHA-256 of list and keys.
func (r *IMAReference) Digest() Digest { return r.digest }

// short is what a state remembers of the reference that judged it.
func (r *IMAReference) short() (out [16]byte) {
	if r != nil {
		copy(out[:], r.digest[:])
	}
	return out
}

func (r *IMAReference) readFiles(list []byte) error {
	lines := bufio.NewScanner(bytes.NewReader(list))
	lines.Buffer(nil, maxPath+1024)
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
	}
	return lines.Err()
}

// fileName is the key of a file: the kernel writes "_" for a space in a path, so
// that its ASCII list can be read.
func fileName(digest, path []byte) string {
	key := append(make([]byte, 0, len(digest)+len(path)), digest...)
	return string(append(key, bytes.ReplaceAll(path, []byte(" "), []byte("_"))...))
}

// refuses says why an entry is not allowed, "" if it is.
func (r *IMAReference) refuses(e *imaEntry) string {
	switch {
	case e.violation:
		return "it was written while it was measured"
	case e.digest == nil:
		return "its template can't be read"
	case fileDigestSize(string(e.algorithm)) != len(e.digest):
		return "its digest is not SHA-256, SHA-384 or SHA-512"
	}
	var room [256]byte
	key := append(append(room[:0], e.digest...), e.path...)
	if _, ok := r.files[string(key)]; ok {
		return ""
	}
	if len(e.signature) == 0 {
		return "it is not listed, and not signed"
	}
	if err := r.verifyFile(e); err != nil {
		return "it is not listed, and " + err.Error()
	}
	return ""
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
