package tuf

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
)

// content is what signed metadata says of the bytes of a file.
type content struct {
	length int64 // -1 if nothing
	hashes map[string][]byte
}

func readContent(f fields) content {
	c := content{length: -1}
	if f.has("length") {
		c.length = f.integer("length", 0)
	}
	if f.has("hashes") {
		c.hashes = readHashes(f.object("hashes"))
	}
	return c
}

// readHashes reads hashes by algorithm. Those of algorithms that we don't know are
// left out, but one that we know must be there.
func readHashes(f fields) map[string][]byte {
	hashes := make(map[string][]byte)
	for _, name := range []string{"sha256", "sha512"} {
		if !f.has(name) {
			continue
		}
		value, err := hex.DecodeString(f.text(name))
		if err != nil || len(value) != newHash(name).Size() {
			f.fault(name, "is no such value in hex")
		}
		hashes[name] = value
	}
	if len(hashes) == 0 {
		f.fault("sha256", "is missing, and so is sha512")
	}
	return hashes
}

func newHash(name string) hash.Hash {
	if name == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

// check refuses data that is not the file called name.
func (c content) check(name string, data []byte) error {
	if c.length < 0 {
		c.length = int64(len(data))
	}
	return c.copy(name, io.Discard, bytes.NewReader(data))
}

// copy writes r to w, never more than the file's length, and refuses what is not
// the file.
func (c content) copy(name string, w io.Writer, r io.Reader) error {
	sums, to := make(map[string]hash.Hash), []io.Writer{w}
	for kind := range c.hashes {
		sums[kind] = newHash(kind)
		to = append(to, sums[kind])
	}
	n, err := io.Copy(io.MultiWriter(to...), io.LimitReader(r, c.length))
	if err != nil {
		return fmt.Errorf("copy %.80q: %w", name, err)
	}
	extra, err := io.ReadFull(r, make([]byte, 1))
	if n < c.length || extra > 0 {
		return refuse(name, "length", "it has not the %d bytes that are signed", c.length)
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("copy %.80q: %w", name, err)
	}
	for kind, want := range c.hashes {
		if got := sums[kind].Sum(nil); !bytes.Equal(got, want) {
			return refuse(name, "hash", "its %s is %x, %x is signed", kind, got, want)
		}
	}
	return nil
}
