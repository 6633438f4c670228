package core

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// TPM is one connection to a chip. Safe for concurrent use: one goroutine owns the
// connection and runs one operation after the other.
type TPM struct {
	mu       sync.Mutex // Close reads chip, the owner may replace it
	chip     transport.TPM
	path     string // to connect again; "" if the transport was given
	alone    bool   // no resource manager stands between
	auth     Auth
	ops      chan *op
	closing  chan struct{} // closed by Close
	ended    chan struct{} // closed when the owner has left
	once     sync.Once
	closeErr error
	commands atomic.Uint64
	since    atomic.Int64 // when a caller gave up the operation that runs (Unix ns), else 0

	// What follows belongs to the owner goroutine.
	broken bool // the connection was lost
	swept  bool // alone: what others left in the chip is gone
	loaded []*Object
	clock  uint64 // counts uses, for least-recently-used
	era    int    // counts how often the chip forgot everything
	// primaries are EKs and SRKs by the Name of their template or handle.
	primaries  map[string]*Object
	persistent []tpm2.TPMHandle // what the chip had when it was first asked; nil before
	places     []ekPlace        // where it may have an EK; nil before they were looked for
}

// Open connects to a chip: a character device ("/dev/tpmrm0"), or the Unix socket of a
// resource manager after "unix:". A raw device ("/dev/tpm0") and swtpm's own socket
// after "swtpm:" are taken to be Alone. It sends no command. A connection that is lost
// is opened again at the next call. Errors: ErrAbsent, ErrBusy.
func Open(ctx context.Context, path string, options ...Option) (*TPM, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open TPM: %w", err)
	}
	s, err := dial(path)
	if err != nil {
		return nil, fmt.Errorf("open TPM: %w", err)
	}
	if !Shared(path) {
		options = append(options, Alone())
	}
	return New(s, append(options, func(t *TPM) { t.path = path })...), nil
}

// Shared tells whether a path leads to a resource manager, so that others can use
// the chip too. /dev/tpm0 does not: who opens it has the chip alone.
func Shared(path string) bool {
	number, raw := strings.CutPrefix(path, "/dev/tpm")
	_, err := strconv.Atoi(number)
	return (!raw || err != nil) && !strings.HasPrefix(path, "swtpm:")
}

// Option says of a connection what its path does not.
type Option func(*TPM)

// WithAuth gives the passwords of the hierarchies.
func WithAuth(a Auth) Option { return func(t *TPM) { t.auth = a } }

// Alone says that no resource manager stands between and nobody else uses the chip.
// What a predecessor left in it is flushed before the first operation, and Close
// shuts it down in order.
func Alone() Option { return func(t *TPM) { t.alone = true } }

// New wraps a transport. If it has a Close method, Close calls it.
func New(chip transport.TPM, options ...Option) *TPM {
	t := &TPM{
		chip:      chip,
		ops:       make(chan *op),
		closing:   make(chan struct{}),
		ended:     make(chan struct{}),
		primaries: make(map[string]*Object),
	}
	for _, option := range options {
		option(t)
	}
	go t.own()
	return t
}

// Shared tells whether a resource manager stands between, by the path.
func (t *TPM) Shared() bool { return !t.alone }

// Commands is the number of TPM commands sent so far, repeats included.
func (t *TPM) Commands() uint64 { return t.commands.Load() }

// Close flushes what is loaded and closes the connection. It does not wait for a
// chip that does not answer, beyond a second. Keys of this TPM can't be used afterwards.
func (t *TPM) Close() error {
	t.once.Do(func() {
		close(t.closing)
		select {
		case <-t.ended:
		case <-time.After(closeTimeout):
		}
		t.closeErr = t.disconnect() // wakes a stuck owner if anything can
	})
	return t.closeErr
}

func (t *TPM) disconnect() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.chip.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// own runs operations until Close. An operation that was given up is finished
// nevertheless, so that chip and bookkeeping agree.
func (t *TPM) own() {
	defer close(t.ended)
	for {
		select {
		case o := <-t.ops:
			o.run()
		case <-t.closing:
			t.flushAll()
			if t.alone {
				t.shutDown()
			}
			return
		}
	}
}

// do has the owner run fn. It returns when fn has, or when ctx ends: then nothing
// that fn writes may be read, and what fn created is flushed.
func (t *TPM) do(ctx context.Context, what string, fn func(*op) error) error {
	if since := t.since.Load(); since != 0 && time.Since(time.Unix(0, since)) > stuckAfter {
		return fmt.Errorf("%s: %w", what, silent(nil))
	}
	o := &op{t: t, ctx: ctx, fn: fn, done: make(chan error, 1)}
	select {
	case t.ops <- o:
	case <-t.closing:
		return fmt.Errorf("%s: %w", what, errClosed())
	case <-ctx.Done():
		return explain(what, ctx.Err())
	}
	select {
	case err := <-o.done:
		return explain(what, err)
	case <-ctx.Done():
	}
	return t.abandon(ctx, o, what)
}

// abandon gives up on an operation, unless it ended at that very moment. ctx is the
// caller's: the one in o belongs to the owner, who replaces it while it cleans up.
func (t *TPM) abandon(ctx context.Context, o *op, what string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case err := <-o.done:
		return explain(what, err)
	default:
	}
	o.given = true
	t.since.Store(time.Now().UnixNano())
	return explain(what, ctx.Err())
}

// reconnect opens the device again after the connection was lost. What was loaded is
// forgotten; keys are loaded again from their files when they are used.
func (o *op) reconnect() error {
	chip, err := dial(o.t.path)
	if err != nil {
		return err
	}
	_ = o.t.disconnect()
	o.t.mu.Lock()
	o.t.chip = chip
	o.t.mu.Unlock()
	select {
	case <-o.t.closing: // perhaps Close saw the old one only
		_ = o.t.disconnect()
		return errClosed()
	default:
	}
	o.t.broken, o.t.swept = false, false
	o.forgetAll()
	return nil
}

func errClosed() error { return Classify(ErrAbsent, "this connection was closed", nil) }

// flushAll empties the chip of what this connection loaded, as far as it answers.
func (t *TPM) flushAll() {
	o := &op{t: t}
	for _, obj := range t.loaded {
		_ = o.cleanly(func() error { return o.flush(obj.handle) })
	}
	t.loaded = nil
}

// flush removes a transient object or session from the chip.
func (o *op) flush(h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(o)
	return err
}
