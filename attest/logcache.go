package attest

import (
	"container/list"
	"errors"
	"sync"
)

// LogCache remembers event logs by their digest, parsed and replayed: a device
// sends its log once per boot, and is asked again many times. It decides nothing;
// with or without it a verdict is the same. Safe for concurrent use.
type LogCache struct {
	mu    sync.Mutex
	limit int // bytes
	size  int // bytes, estimated
	logs  map[Digest]*list.Element
	order *list.List // of *knownLog, latest use first
}

// knownLog is what a log says by itself. It is never changed.
type knownLog struct {
	digest Digest
	size   int // bytes, estimated
	log    *EventLog
	replay map[int]Digest
	facts  Facts // if the quote confirms all of it
	err    error
}

// NewLogCache returns a cache of about limit bytes.
func NewLogCache(limit int) (*LogCache, error) {
	if limit <= 0 {
		return nil, errors.New("make log cache: limit is not positive")
	}
	return &LogCache{limit: limit, logs: make(map[Digest]*list.Element), order: list.New()}, nil
}

// Has reports whether the log is known, so that evidence needs no Bytes of it.
func (c *LogCache) Has(digest Digest) bool { return c.find(digest) != nil }

func (c *LogCache) find(digest Digest) *knownLog {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.logs[digest]
	if !ok {
		return nil
	}
	c.order.MoveToFront(element)
	return element.Value.(*knownLog)
}

func (c *LogCache) add(known *knownLog) {
	if c == nil || known.size > c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, twice := c.logs[known.digest]; twice {
		return
	}
	c.logs[known.digest] = c.order.PushFront(known)
	c.size += known.size
	for c.size > c.limit {
		last := c.order.Back()
		gone := c.order.Remove(last).(*knownLog)
		delete(c.logs, gone.digest)
		c.size -= gone.size
	}
}

// readLog parses and replays a log whose digest was checked.
func readLog(digest Digest, raw []byte) *knownLog {
	known := &knownLog{digest: digest, size: 4096 + 4*len(raw)}
	known.log, known.err = ParseEventLog(raw)
	if known.err == nil {
		known.replay, known.err = known.log.Replay()
	}
	if known.err == nil {
		known.facts = extractFacts(known.log, func(pcr int) bool { return pcr != imaPCR })
	}
	return known
}
