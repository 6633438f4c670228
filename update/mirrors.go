package update

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gatewarden/gatewarden/update/tuf"
)

// Mirrors is one repository at several places, asked in order until one has the
// file: a place that is behind, or would hide a new root, hides nothing. There is no
// such file (tuf.ErrNoFile) if nobody has it and somebody said so.
type Mirrors []tuf.Fetcher

// Fetch asks the mirrors for a file.
func (m Mirrors) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	errs := []error{fmt.Errorf("no mirror has %.80q", name)}
	for _, one := range m {
		body, err := one.Fetch(ctx, name, limit)
		if err == nil || ctx.Err() != nil {
			return body, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

var _ tuf.Fetcher = Mirrors(nil)
