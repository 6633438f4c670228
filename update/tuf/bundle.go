package tuf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
)

// Bundle is a set of metadata files by the names under which a Client asks for
// them: what a courier without trust carries to a Client without a network.
type Bundle map[string][]byte

// Fetch gives a file of the bundle.
func (b Bundle) Fetch(_ context.Context, name string, _ int64) (io.ReadCloser, error) {
	data, ok := b[name]
	if !ok {
		return nil, ErrNoFile
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Bundle returns the files from which another Client, whose root has version
// root, comes to where this one is without a network. It grows with the roles
// that Target had to load.
func (c *Client) Bundle(root int64) (Bundle, error) {
	if c.set == nil {
		return nil, errors.New("bundle metadata: there was no successful refresh")
	}
	all := maps.Clone(c.used)
	for v := root + 1; v <= c.set.RootVersion(); v++ {
		data, err := c.cfg.FS.ReadFile(c.rootPath(v), MaxRoot)
		if err != nil {
			return nil, fmt.Errorf("bundle metadata: %w", err)
		}
		all[strconv.FormatInt(v, 10)+".root.json"] = data
	}
	return all, nil
}

var _ Fetcher = Bundle(nil)
