// Package ledger remembers which commands ever began, so that each runs once:
// across restarts, power cuts and however often it arrives.
//
// Begin is durable before it returns. What a power cut tears off the end is
// something that had not begun. Any other damage closes the ledger: a device that
// can't tell what it ran runs nothing.
package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

var (
	// ErrSeen says that the command began before, so it must not run.
	ErrSeen = errors.New("a command with this id began before")
	// ErrFull says that too many commands are still within their time.
	ErrFull = errors.New("ledger is full")
)

const (
	maxEntries = 10_000   // commands remembered, count
	maxFile    = 16 << 20 // bytes
	maxWord    = 128      // id, verb, digest or outcome, bytes
	// keep is how far the time floor has to pass an entry's expiry before it is
	// forgotten. The clock has no say: it may be wrong by years.
	keep = 31 * 24 * time.Hour
)

// Entry is a command that began.
type Entry struct {
	ID       string    `json:"id"`
	Verb     string    `json:"verb"`
	Envelope string    `json:"envelope"` // SHA-256 (hex) of the command's bytes
	Expires  time.Time `json:"expires"`  // no earlier than the time at which it was accepted
	Outcome  string    `json:"outcome,omitempty"`
	Reported bool      `json:"reported,omitempty"` // a receipt with Outcome is in the outbox
}

// follows says whether e may be recorded after old, of the same id.
func (e Entry) follows(old Entry) bool {
	if old.Outcome == "" {
		return e.Outcome != "" && !e.Reported
	}
	return e.Outcome == old.Outcome && e.Reported && !old.Reported
}

// Ledger is safe for concurrent use by one process. It has one owner.
type Ledger struct {
	fs   *fsx.FS
	path string

	mu      sync.Mutex
	entries map[string]Entry
	order   []string // ids as they began
	broken  error    // set when the file may not say what we think it says
}

// Open reads the ledger at path, or starts one. An error that wraps
// fsx.ErrDamaged means that no command may run; its text says what to do.
func Open(files *fsx.FS, path string) (*Ledger, error) {
	l := &Ledger{fs: files, path: path, entries: make(map[string]Entry)}
	data, err := files.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		if err := files.WriteFile(path, []byte(header), 0o600); err != nil {
			return nil, fmt.Errorf("start ledger: %w", err)
		}
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w%s", err, hint(err))
	}
	size, err := l.load(data)
	if err != nil {
		return nil, fmt.Errorf("read ledger %s: %w%s", path, err, hint(err))
	}
	if size < len(data) {
		if err := files.Truncate(path, int64(size)); err != nil {
			return nil, fmt.Errorf("cut torn end off ledger: %w", err)
		}
	}
	return l, nil
}

// Broken returns a ledger in which no command can begin, for a device that goes on
// working although its ledger can't be read. It touches no file.
func Broken(cause error) *Ledger {
	return &Ledger{entries: make(map[string]Entry), broken: cause}
}

func hint(err error) string {
	if !errors.Is(err, fsx.ErrDamaged) {
		return ""
	}
	return "; no command runs until the file is moved aside, which is safe once every command signed so far has expired"
}

// load takes in the lines of data and returns how many bytes of it are whole.
func (l *Ledger) load(data []byte) (int, error) {
	rest, ok := bytes.CutPrefix(data, []byte(header))
	if !ok {
		return 0, fmt.Errorf("it does not begin with %q: %w", header, fsx.ErrDamaged)
	}
	for number := 2; len(rest) > 0; number++ {
		line, next, whole := bytes.Cut(rest, []byte("\n"))
		record, err := decode(line)
		// What a power cut leaves behind: the last line without its end, or with
		// zeros where data had not reached the disk.
		if !whole || err != nil && len(next) == 0 && bytes.IndexByte(line, 0) >= 0 {
			break
		}
		if err == nil {
			err = l.take(record)
		}
		if err != nil {
			return 0, fmt.Errorf("line %d: %w: %w", number, err, fsx.ErrDamaged)
		}
		rest = next
	}
	return len(data) - len(rest), nil
}

func (l *Ledger) take(e Entry) error {
	old, known := l.entries[e.ID]
	switch {
	case known && !e.follows(old):
		return fmt.Errorf("command %.80q occurs again", e.ID)
	case !known:
		l.order = append(l.order, e.ID)
	}
	l.entries[e.ID] = e
	return nil
}

// Begin records that e is about to run. ErrSeen: it began before, whatever became
// of it. After any other error it must not run either.
func (l *Ledger) Begin(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, seen := l.entries[e.ID]; seen {
		return ErrSeen
	}
	if len(l.entries) >= maxEntries {
		return fmt.Errorf("%w: %d commands are remembered until they are long expired", ErrFull, len(l.entries))
	}
	e.Outcome, e.Reported = "", false
	return l.write(e)
}

// Finish records what became of a command that began. Once finished, it stays so.
func (l *Ledger) Finish(id, outcome string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, known := l.entries[id]
	switch {
	case !known:
		return fmt.Errorf("finish command %.80q: it never began", id)
	case outcome == "":
		return fmt.Errorf("finish command %.80q: no outcome", id)
	case e.Outcome != "":
		return nil
	}
	e.Outcome = outcome
	return l.write(e)
}

// Reported records that the outcome of a finished command is safely on its way.
func (l *Ledger) Reported(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	switch {
	case e.Outcome == "":
		return fmt.Errorf("report command %.80q: it has not finished", id)
	case e.Reported:
		return nil
	}
	e.Reported = true
	return l.write(e)
}

func (l *Ledger) write(e Entry) error {
	if l.broken != nil {
		return fmt.Errorf("write ledger: an earlier write failed: %w", l.broken)
	}
	if len(e.ID) == 0 || max(len(e.ID), len(e.Verb), len(e.Envelope), len(e.Outcome)) > maxWord {
		return fmt.Errorf("write ledger: a field of %.80q is empty or longer than %d bytes", e.ID, maxWord)
	}
	line, err := encode(e)
	if err != nil {
		return fmt.Errorf("encode ledger entry: %w", err)
	}
	if err := l.fs.Append(l.path, line, 0o600); err != nil {
		l.repair(err)
		return fmt.Errorf("write ledger: %w", err)
	}
	return l.take(e)
}

// repair writes the file anew from memory after a failed append, whose line may
// or may not be there; where that fails too, the ledger is closed until restart.
func (l *Ledger) repair(cause error) {
	if err := l.rewrite(); err != nil {
		l.broken = errors.Join(cause, err)
	}
}

func (l *Ledger) rewrite() error {
	data := []byte(header)
	for _, id := range l.order {
		line, err := encode(l.entries[id])
		if err != nil {
			return err
		}
		data = append(data, line...)
	}
	return l.fs.WriteFile(l.path, data, 0o600)
}

// Get returns what is known of a command.
func (l *Ledger) Get(id string) (Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries[id]
	return e, ok
}

// Unreported returns what began and was not reported, oldest first. One without
// an outcome is still running, or the power went while it ran.
func (l *Ledger) Unreported() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Entry
	for _, id := range l.order {
		if e := l.entries[id]; !e.Reported {
			list = append(list, e)
		}
	}
	return list
}

// Compact forgets reported commands that expired long before floor, the stored
// time floor: never the clock's time.
func (l *Ledger) Compact(floor time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries, order := l.entries, l.order
	l.entries, l.order = make(map[string]Entry), nil
	for _, id := range order {
		e := entries[id]
		if e.Reported && e.Expires.Add(keep).Before(floor) {
			continue
		}
		l.entries[id], l.order = e, append(l.order, id)
	}
	if len(l.order) == len(order) {
		return nil
	}
	if err := l.rewrite(); err != nil {
		l.entries, l.order = entries, order
		return fmt.Errorf("compact ledger: %w", err)
	}
	return nil
}
