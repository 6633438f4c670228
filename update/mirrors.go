package update

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gatewarden/gatewarden/update/tuf"
)

// Mirrors is one repository at several places, asked in order until one answers.
// That a place does not have a file is an answer.
type Mirrors []tuf.Fetcher

// Fetch asks the mirrors for a file.
func (m Mirrors) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	errs := []error{fmt.Errorf("no mirror has %.80q", name)}
	for _, one := range m {
		body, err := one.Fetch(ctx, name, limit)
		if err == nil || errors.Is(err, tuf.ErrNoFile) || ctx.Err() != nil {
			return body, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

var _ tuf.Fetcher = Mirrors(nil)
