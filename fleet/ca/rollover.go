package ca

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// generation is the number in the name of an intermediate's files: 1 for name, 2
// for name-2; 0 if file is not name's.
func generation(name, file string) int {
	if file == name {
		return 1
	}
	n, err := strconv.Atoi(strings.TrimPrefix(file, name+"-"))
	if err != nil || n < 2 || file != fileOf(name, n) {
		return 0
	}
	return n
}

func fileOf(name string, generation int) string {
	if generation == 1 {
		return name
	}
	return name + "-" + strconv.Itoa(generation)
}

// Rollover makes a new generation of the intermediates in which, all if none is
// named. The older ones stay good until they expire, so that nobody is cut off
// while certificates move; with drop (their keys were stolen) they are dropped at
// once, and whoever has a certificate of theirs must recover. rootKey is brought
// for the moment. A server takes the new ones up when it starts. It returns the
// names of the new files. Interrupted, it changed nothing and may be repeated.
func (v *Vault) Rollover(rootKey string, drop bool, now time.Time, which ...string) ([]string, error) {
	if len(which) == 0 {
		which = names()
	}
	for _, name := range which {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("roll over: there is no intermediate %q, only %s", name, strings.Join(names(), ", "))
		}
	}
	c, err := v.Open()
	if err != nil {
		return nil, err
	}
	root := issuer{file: rootName, cert: c.root}
	if root.key, _, err = readKey(&v.FS, rootKey, v.RootPassphrase); err != nil {
		return nil, fmt.Errorf("roll over: %w", err)
	}
	if !root.key.PublicKey.Equal(c.root.PublicKey) {
		return nil, fmt.Errorf("roll over: %s is not the key of %s.pem", rootKey, rootName)
	}
	rec := record{Version: 2, Fleet: c.fleet, Issuers: make(map[string][]string)}
	var made []string
	for _, name := range names() {
		if slices.Contains(which, name) {
			i, err := v.makeIntermediate(name, fileOf(name, generation(name, c.current(name).file)+1), c.fleet, now, &root)
			if err != nil {
				return nil, fmt.Errorf("roll over: %w", err)
			}
			made = append(made, i.file)
			if drop {
				c.issuers[name] = nil
			}
			c.issuers[name] = append(c.issuers[name], i)
		}
		for _, i := range c.issuers[name] {
			if now.Before(i.cert.NotAfter) || i.file == c.current(name).file {
				rec.Issuers[name] = append(rec.Issuers[name], i.file)
			}
		}
	}
	if err := v.FS.WriteJSON(filepath.Join(v.Dir, recordFile), rec, 0o644); err != nil {
		return nil, fmt.Errorf("roll over: %w", err)
	}
	return made, nil
}
