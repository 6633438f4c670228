package helper

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/gatewarden/gatewarden/helper/slot"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

const (
	sessionIdle   = 15 * time.Minute // between two steps: the agent may be fetching over a slow link
	sessionWait   = time.Second      // for the session before, which may just be ending
	progressEvery = time.Second
)

// install is one session: the connection on which a release comes in. What it
// holds is its own; books and clock it uses as verbs do, under their lock.
type install struct {
	*server
	conn    *net.UnixConn
	release *release.Release
	slot    string // that is written
	images  []*image
	at      *image // whose index came last
	buf     []byte // holds the raw bytes of a step: checked here and written from here
}

// stepFunc does one step. The raw bytes are private: whoever sent them can't change
// them any more.
type stepFunc struct {
	name  string
	limit int64 // raw bytes
	do    func(i *install, ctx context.Context, r helperwire.Request, raw []byte) (helperwire.Response, error)
}

// installSteps lists what may follow the verb install.
func installSteps() []stepFunc {
	return []stepFunc{
		{helperwire.StepIndex, chunk.MaxIndex, (*install).index},
		{helperwire.StepSeed, chunk.MaxIndex, (*install).seed},
		{helperwire.StepChunk, chunk.MaxChunk, (*install).chunk},
		{helperwire.StepFinish, 0, (*install).finish},
	}
}

// install serves a session until it is finished, idle too long or broken. A step
// that is refused leaves it as it was.
func (s *server) install(ctx context.Context, conn *net.UnixConn, first helperwire.Request) error {
	i := &install{server: s, conn: conn}
	wait, cancel := context.WithTimeout(ctx, sessionWait)
	defer cancel()
	select {
	case s.installing <- struct{}{}:
		defer func() { <-s.installing }()
	case <-wait.Done():
		_, err := i.reply(first, helperwire.Response{}, refuse("busy", "Another install session is open."))
		return err
	}
	defer i.close()
	begin := i.begin
	if first.Verb == helperwire.VerbOperators {
		begin = i.adopt
	}
	response, err := begin(ctx, first)
	if again, sent := i.reply(first, response, err); sent != nil || err != nil || !again {
		return sent
	}
	for {
		r, err := i.next(ctx)
		if err != nil {
			return err
		}
		response, err := i.step(ctx, r)
		again, sent := i.reply(r, response, err)
		if sent != nil || !again {
			return sent
		}
	}
}

// reply answers a step and says whether the session goes on: not after the last
// one, and not after an error that is no refusal, which leaves it in the dark.
func (i *install) reply(r helperwire.Request, response helperwire.Response, err error) (again bool, sent error) {
	response.Version, response.Error = 1, i.explain(r.Verb, err)
	again = r.Verb != helperwire.StepFinish && r.Verb != helperwire.VerbOperators
	if response.Error != nil {
		again = response.Error.Rule != ""
	}
	return again, i.send(response)
}

// next waits for the agent's next step.
func (i *install) next(ctx context.Context) (helperwire.Request, error) {
	var r helperwire.Request
	if err := i.conn.SetDeadline(time.Now().Add(sessionIdle)); err != nil {
		return r, err
	}
	if ctx.Err() != nil { // it ended before the deadline was set anew
		return r, ctx.Err()
	}
	if err := helperwire.Read(i.conn, &r); err != nil {
		return r, err
	}
	if r.Version != 1 {
		return r, fmt.Errorf("step has version %d, not 1", r.Version)
	}
	return r, nil
}

// raw copies the bytes that follow r into our own memory.
func (i *install) raw(r helperwire.Request, limit int64) ([]byte, error) {
	raw, err := helperwire.ReadRaw(i.conn, r.Raw, limit, i.buf)
	if err == nil && cap(raw) <= chunk.MaxChunk {
		i.buf = raw[:0]
	}
	return raw, err
}

func (i *install) step(ctx context.Context, r helperwire.Request) (helperwire.Response, error) {
	for _, step := range installSteps() {
		if step.name != r.Verb {
			continue
		}
		raw, err := i.raw(r, step.limit)
		if err != nil {
			return helperwire.Response{}, err
		}
		return step.do(i, ctx, r, raw)
	}
	return helperwire.Response{}, fmt.Errorf("an install session has no step %.40q", r.Verb)
}

func (i *install) send(response helperwire.Response) error {
	if err := i.conn.SetDeadline(time.Now().Add(frameTimeout)); err != nil {
		return err
	}
	return send(i.conn, answer{Response: response})
}

// tick says, from time to time, that a long step goes on; it ends it with ctx.
func (i *install) tick(ctx context.Context, m *image) slot.Tick {
	told := time.Now()
	return func(done int64) error {
		if ctx.Err() != nil || time.Since(told) < progressEvery {
			return ctx.Err()
		}
		told = time.Now()
		return i.send(helperwire.Response{Version: 1, Progress: &helperwire.Progress{Done: done, Total: m.about.Size}})
	}
}

// Fetch asks the agent for a metadata file. It is a courier: update/tuf verifies.
func (i *install) Fetch(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	if err := i.send(helperwire.Response{Version: 1, Want: &helperwire.Want{Name: name, Limit: limit}}); err != nil {
		return nil, err
	}
	r, err := i.next(ctx)
	switch {
	case err != nil:
		return nil, err
	case r.Verb != helperwire.StepFile:
		return nil, fmt.Errorf("step %.40q came where %s was due", r.Verb, helperwire.StepFile)
	case r.Absent:
		return nil, tuf.ErrNoFile
	}
	data, err := helperwire.ReadRaw(i.conn, r.Raw, limit, nil)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (i *install) close() {
	for _, m := range i.images {
		if m.Image == nil {
			continue
		}
		if err := m.Close(); err != nil {
			i.Log.Warn("slot was not closed", "error", err)
		}
	}
}

// index takes the index of an image: the target that the owner signed, or nothing.
func (i *install) index(_ context.Context, r helperwire.Request, raw []byte) (helperwire.Response, error) {
	for _, m := range i.images {
		if m.about.Slot != r.Image {
			continue
		}
		if err := m.index.Check(bytes.NewReader(raw)); err != nil {
			return helperwire.Response{}, err
		}
		i.at = m
		return helperwire.Response{}, m.Index(raw)
	}
	return helperwire.Response{}, refuse("index", "The release has no image of kind %.70q.", r.Image)
}

func (i *install) seed(ctx context.Context, _ helperwire.Request, raw []byte) (helperwire.Response, error) {
	if i.at == nil {
		return helperwire.Response{}, refuse("index", "The index comes first.")
	}
	missing, err := i.at.Seed(raw, i.tick(ctx, i.at))
	return helperwire.Response{Missing: missing}, err
}

// chunk takes the uncompressed bytes of a chunk, wherever the agent has them from.
func (i *install) chunk(_ context.Context, r helperwire.Request, raw []byte) (helperwire.Response, error) {
	if i.at == nil {
		return helperwire.Response{}, refuse("index", "The index comes first.")
	}
	return helperwire.Response{}, i.at.Chunk(r.Chunk, raw)
}

// finish holds every image, as the disk has it, to what the owner signed.
func (i *install) finish(ctx context.Context, _ helperwire.Request, _ []byte) (helperwire.Response, error) {
	for _, m := range i.images {
		if err := m.Missing(); err != nil {
			return helperwire.Response{}, err
		}
	}
	for _, m := range i.images {
		if err := m.Whole(i.tick(ctx, m)); err != nil {
			return helperwire.Response{}, err
		}
	}
	return helperwire.Response{}, i.complete(ctx)
}

var _ tuf.Fetcher = (*install)(nil)
