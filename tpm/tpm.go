package tpm

import (
	"context"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm/core"
)

// TPM is one connection to a chip. Safe for concurrent use: one goroutine owns the
// connection and runs one operation after the other.
type TPM struct{ *core.TPM }

// What the connection is made of. Package core says more, and is what a program
// imports that makes no keys.
type (
	Chip       = core.Chip       // the TPM for the length of one operation
	StorageKey = core.StorageKey // the parent of what is kept in files
	EK         = core.EK         // the endorsement key
	Auth       = core.Auth       // passwords of the hierarchies
	Option     = core.Option
)

// Classes of failure that callers branch on with errors.Is. The message of the
// error that wraps one says what to do next.
var (
	ErrAbsent    = core.ErrAbsent    // no device, no permission, or the connection broke
	ErrBusy      = core.ErrBusy      // try again later
	ErrLockedOut = core.ErrLockedOut // dictionary attack protection; never retried
	ErrPolicy    = core.ErrPolicy    // authorisation or policy not satisfied
	ErrDamaged   = core.ErrDamaged   // a key file or a response that makes no sense
	ErrReplaced  = core.ErrReplaced  // chip cleared or replaced: enrol again
)

// Open connects to a chip, as core.Open does: "/dev/tpmrm0", "/dev/tpm0", or a socket
// after "unix:" or "swtpm:". Errors: ErrAbsent, ErrBusy.
func Open(ctx context.Context, path string, options ...Option) (*TPM, error) {
	t, err := core.Open(ctx, path, options...)
	if err != nil {
		return nil, err
	}
	return &TPM{t}, nil
}

// New wraps a transport. If it has a Close method, Close calls it.
func New(chip transport.TPM, options ...Option) *TPM { return &TPM{core.New(chip, options...)} }

// WithAuth gives the passwords of the hierarchies.
func WithAuth(a Auth) Option { return core.WithAuth(a) }

// Alone says that no resource manager stands between and nobody else uses the chip:
// see core.Alone.
func Alone() Option { return core.Alone() }

// Shared tells whether a path leads to a resource manager, so that others can use
// the chip too.
func Shared(path string) bool { return core.Shared(path) }

// ReadAuth reads the passwords from a folder of credentials: see core.ReadAuth.
func ReadAuth(folder string) (Auth, error) { return core.ReadAuth(folder) }
