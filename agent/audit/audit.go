// Package audit keeps the device's log of what mattered: one JSON line per entry,
// each carrying the hash of all that came before it. Nobody can change, drop or
// insert an entry without every later head being different, and the fleet learns
// heads in quotes.
//
// The log is bounded: two files, of which the older is dropped when the newer is
// full; the chain goes on across them.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	maxFile = 1 << 20          // bytes, of each of the two files
	maxName = 64               // bytes of an entry's name
	maxRead = maxFile + 16<<10 // a file that grew by one entry too many is still read
)

// Names of the entries that the log makes itself.
const (
	EventTorn    = "audit.torn"    // a power cut left half an entry, which was removed
	EventDamaged = "audit.damaged" // the log was moved aside; a new chain began
)

// Entry is a line of the log.
type Entry = bound.Entry

// Log is safe for concurrent use. It has one owner per path.
type Log struct {
	fs   *fsx.FS
	path string
	now  func() time.Time

	mu    sync.Mutex
	size  int
	at    position
	dirty bool // a failed write may have left something behind size
}

// position is where a chain stands.
type position struct {
	index uint64
	head  [sha256.Size]byte
}

// Open reads the log at path, or starts one. What a power cut tore off is cut
// away; a log that is damaged otherwise is kept beside as path.damaged and a new
// chain begins: the device can't stop because its log can't be read. Both are
// said in the log itself.
func Open(files *fsx.FS, path string, now func() time.Time) (*Log, error) {
	if files == nil || path == "" || now == nil {
		return nil, errors.New("audit: incomplete configuration")
	}
	l := &Log{fs: files, path: path, now: now}
	torn, err := l.load()
	if errors.Is(err, fsx.ErrDamaged) {
		return l, l.restart(err)
	}
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if torn == 0 {
		return l, nil
	}
	if err := files.Truncate(path, int64(l.size)); err != nil {
		return nil, fmt.Errorf("cut torn end off audit log: %w", err)
	}
	if _, err := l.Append(EventTorn, fmt.Sprintf("A power cut left %d bytes of an unfinished entry, which were removed.", torn)); err != nil {
		return nil, err
	}
	return l, nil
}

// load sets position and size and returns how many bytes at the end are torn.
func (l *Log) load() (int, error) {
	older, err := readFile(l.fs, l.path+".1")
	if err != nil {
		return 0, err
	}
	at, rest, err := follow(older, nil, nil)
	if err != nil || len(rest) > 0 {
		return 0, fmt.Errorf("older file: %w", errors.Join(err, fsx.ErrDamaged))
	}
	data, err := readFile(l.fs, l.path)
	if err != nil {
		return 0, err
	}
	var from *position
	if len(older) > 0 {
		from = &at
	}
	if at, rest, err = follow(data, from, nil); err != nil {
		return 0, err
	}
	l.at, l.size = at, len(data)-len(rest)
	return len(rest), nil
}

func (l *Log) restart(cause error) error {
	for _, name := range []string{l.path + ".1", l.path} {
		err := l.fs.Rename(name, name+".damaged")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("move damaged audit log aside: %w", err)
		}
	}
	l.at, l.size = position{}, 0
	_, err := l.Append(EventDamaged, fmt.Sprintf("The audit log was damaged (%.300s); it is kept as %s.damaged and a new one begins.", cause, l.path))
	return err
}

// Append adds an entry, durably. A text that is too long is cut.
func (l *Log) Append(name, text string) (wire.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := Entry{
		Version: 1, Index: l.at.index + 1, Time: l.now().UTC(),
		Name: bound.Cut(name, maxName), Text: bound.Cut(text, wire.MaxText), Prev: hex.EncodeToString(l.at.head[:]),
	}
	line, err := json.Marshal(e)
	if err != nil {
		return wire.Event{}, fmt.Errorf("encode audit entry: %w", err)
	}
	if l.size > 0 && l.size+len(line) >= maxFile {
		if err := l.fs.Rename(l.path, l.path+".1"); err != nil {
			return wire.Event{}, fmt.Errorf("turn audit log over: %w", err)
		}
		l.size = 0
	}
	if err := l.write(append(line, '\n')); err != nil {
		return wire.Event{}, fmt.Errorf("write audit log: %w", err)
	}
	l.at = l.at.after(line)
	return wire.Event{Version: 1, Name: e.Name, Text: e.Text, Index: e.Index, Head: hex.EncodeToString(l.at.head[:]), Entry: line}, nil
}

func (l *Log) write(line []byte) error {
	if l.dirty {
		err := l.fs.Truncate(l.path, int64(l.size))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	err := l.fs.Append(l.path, line, 0o600)
	if l.dirty = err != nil; !l.dirty {
		l.size += len(line)
	}
	return err
}

// Head returns the index of the last entry and the head after it (hex); 0 and
// zeros if there is none.
func (l *Log) Head() (uint64, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at.index, hex.EncodeToString(l.at.head[:])
}

// HeadAt returns the head (hex) after the entry of an index; known is false if the log
// does not, or no longer, hold that entry and the next.
func (l *Log) HeadAt(index uint64) (head string, known bool, err error) {
	if last, head := l.Head(); index == last {
		return head, true, nil
	}
	entries, err := l.Tail(math.MaxInt)
	for _, e := range entries {
		if e.Index == index+1 {
			return e.Prev, true, err
		}
	}
	return "", false, err
}

// Tail returns the last n entries, oldest first.
func (l *Log) Tail(n int) ([]Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Entry
	for _, name := range []string{l.path + ".1", l.path} {
		data, err := readFile(l.fs, name)
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		if _, _, err := follow(data, nil, func(e Entry) { list = append(list, e) }); err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		list = list[max(0, len(list)-n):]
	}
	return list, nil
}

// Verify checks the chain of the log at path, over both files, and returns the
// index and head (hex) at its end.
func Verify(files *fsx.FS, path string) (uint64, string, error) {
	l := &Log{fs: files, path: path}
	torn, err := l.load()
	if err == nil && torn > 0 {
		err = fmt.Errorf("%d bytes of an unfinished entry at the end", torn)
	}
	if err != nil {
		return 0, "", fmt.Errorf("verify audit log: %w", err)
	}
	return l.at.index, hex.EncodeToString(l.at.head[:]), nil
}

// follow walks the chain through data from a position, or from whatever the first
// entry says where from is nil. It returns where the chain stands and what is
// left of an entry that a power cut tore.
func follow(data []byte, from *position, each func(Entry)) (position, []byte, error) {
	var at position
	if from != nil {
		at = *from
	}
	rest := data
	for number := 1; len(rest) > 0; number++ {
		line, next, whole := bytes.Cut(rest, []byte("\n"))
		if !whole || len(next) == 0 && bytes.IndexByte(line, 0) >= 0 {
			return at, rest, nil
		}
		e, prev, err := bound.Decode(line)
		if err == nil && number == 1 && from == nil {
			at = position{index: e.Index - 1, head: prev}
		}
		if err == nil && (e.Index != at.index+1 || prev != at.head) {
			err = errors.New("it does not follow from the one before")
		}
		if err != nil {
			return at, nil, fmt.Errorf("entry %d: %w: %w", number, err, fsx.ErrDamaged)
		}
		if each != nil {
			each(e)
		}
		at, rest = at.after(line), next
	}
	return at, nil, nil
}

func (p position) after(line []byte) position {
	return position{index: p.index + 1, head: bound.Head(p.head, line)}
}

func readFile(files *fsx.FS, path string) ([]byte, error) {
	data, err := files.ReadFile(path, maxRead)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}
