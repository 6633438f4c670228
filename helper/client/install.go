package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/update/tuf"
)

const (
	stepTimeout = 30 * time.Second // for one frame: the helper reports progress more often
	maxUnread   = 1 << 16          // progress frames in one step, count
)

// Slots is the helper's account of slots, releases and epoch.
type Slots = helperwire.Slots

// Image is one image of a release that is being installed.
type Image = helperwire.Image

// Slots asks what the slots hold and which one runs.
func (c *Client) Slots(ctx context.Context) (Slots, error) {
	response, files, err := c.ask(ctx, helperwire.Request{Version: 1, Verb: helperwire.VerbSlots})
	closeAll(files)
	if err == nil && response.Slots == nil {
		err = errors.New("the helper's answer is empty")
	}
	if err != nil {
		return Slots{}, fmt.Errorf("ask helper for slots: %w", err)
	}
	return *response.Slots, nil
}

// Try has the installed release of this version booted once; the machine reboots.
func (c *Client) Try(ctx context.Context, version string) error {
	return c.do(ctx, "try release", helperwire.Request{Version: 1, Verb: helperwire.VerbTry, Release: version})
}

// Commit keeps the release of this version, which runs on trial. It may be
// repeated.
func (c *Client) Commit(ctx context.Context, version string) error {
	return c.do(ctx, "commit release", helperwire.Request{Version: 1, Verb: helperwire.VerbCommit, Release: version})
}

// Rollback gives up the release that runs on trial, and the machine reboots, or
// the one that waits for its trial.
func (c *Client) Rollback(ctx context.Context) error {
	return c.do(ctx, "roll back", helperwire.Request{Version: 1, Verb: helperwire.VerbRollback})
}

func (c *Client) do(ctx context.Context, what string, request helperwire.Request) error {
	_, files, err := c.ask(ctx, request)
	closeAll(files)
	if err != nil {
		return fmt.Errorf("ask helper to %s: %w", what, err)
	}
	return nil
}

// Install is one install session. Its methods are called in the order Index, Seed
// and Chunks for each image, then Finish. A *policy.Refusal leaves it usable; after
// any other error only Close is left. It is not safe for concurrent use.
type Install struct {
	conn  *net.UnixConn
	about helperwire.Install
}

// Install opens a session for the release whose target is at path, for example
// releases/gateway/stable/1.4.2.json. The helper verifies the metadata by itself:
// repository is asked for each file that it wants. Errors that are a
// *policy.Refusal name the rule: one of package release, tuf/ with one of package
// tuf, or busy, path, trial, slot, no-update.
func (c *Client) Install(ctx context.Context, path string, repository tuf.Fetcher) (*Install, error) {
	i, response, err := c.session(ctx, helperwire.Request{Version: 1, Verb: helperwire.VerbInstall, Target: path}, nil, repository)
	if err == nil && response.Install == nil {
		i.conn.Close()
		err = errors.New("the helper's answer is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("open install session: %w", err)
	}
	i.about = *response.Install
	return i, nil
}

// Operators hands over the operators.json of the owner's repository, which the helper
// verifies as it does a release, and goes by if it is newer. A *policy.Refusal names
// the rule: tuf/ with one of package tuf, role, format, fleet, issued, older, or busy.
func (c *Client) Operators(ctx context.Context, document []byte, repository tuf.Fetcher) error {
	i, _, err := c.session(ctx, helperwire.Request{Version: 1, Verb: helperwire.VerbOperators}, document, repository)
	if err != nil {
		return fmt.Errorf("have helper adopt operators.json: %w", err)
	}
	return i.conn.Close()
}

// session begins one, and carries the metadata that the helper wants to see.
func (c *Client) session(ctx context.Context, first helperwire.Request, raw []byte, repository tuf.Fetcher) (*Install, *helperwire.Response, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	i := &Install{conn: conn}
	response, err := i.ask(ctx, first, raw, nil)
	for err == nil && response.Want != nil {
		response, err = i.courier(ctx, repository, *response.Want)
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return i, response, nil
}

// courier carries one metadata file to the helper.
func (i *Install) courier(ctx context.Context, repository tuf.Fetcher, want helperwire.Want) (*helperwire.Response, error) {
	step := helperwire.Request{Version: 1, Verb: helperwire.StepFile}
	data, err := fetch(ctx, repository, want)
	if errors.Is(err, tuf.ErrNoFile) {
		step.Absent, err = true, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s for the helper: %w", want.Name, err)
	}
	return i.ask(ctx, step, data, nil)
}

func fetch(ctx context.Context, repository tuf.Fetcher, want helperwire.Want) ([]byte, error) {
	if want.Limit < 0 || want.Limit > tuf.MaxTargets {
		return nil, fmt.Errorf("the helper wants up to %d bytes", want.Limit)
	}
	body, err := repository.Fetch(ctx, want.Name, want.Limit)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, want.Limit+1))
	if err == nil && int64(len(data)) > want.Limit {
		err = fmt.Errorf("it has more than %d bytes", want.Limit)
	}
	return data, err
}

// Slot is the slot that is written: "a" or "b".
func (i *Install) Slot() string { return i.about.Slot }

// Release is the version that is installed.
func (i *Install) Release() string { return i.about.Release }

// Images lists the images of the release, in the order of its metadata.
func (i *Install) Images() []Image { return i.about.Images }

// Index begins an image: kind is its Kind, index the .caibx file as published.
func (i *Install) Index(ctx context.Context, kind string, index []byte) error {
	return i.do(ctx, "send index", helperwire.Request{Version: 1, Verb: helperwire.StepIndex, Image: kind}, index)
}

// Seed lets the helper use what it finds in both slots, and returns the numbers of
// the chunks that it lacks, of equal ones only the first. running is the index of
// the running slot's image, nil if it isn't known. progress may be nil.
func (i *Install) Seed(ctx context.Context, running []byte, progress func(done, total int64)) ([]int, error) {
	response, err := i.ask(ctx, helperwire.Request{Version: 1, Verb: helperwire.StepSeed}, running, progress)
	if err != nil {
		return nil, fmt.Errorf("let helper look for chunks: %w", err)
	}
	var missing []int
	for n := range 8 * len(response.Missing) {
		if response.Missing[n/8]>>(n%8)&1 == 1 {
			missing = append(missing, n)
		}
	}
	return missing, nil
}

// Chunk sends the uncompressed bytes of chunk n of the last Index. A refusal says
// that they are not what the index names.
func (i *Install) Chunk(ctx context.Context, n int, data []byte) error {
	return i.do(ctx, "send chunk", helperwire.Request{Version: 1, Verb: helperwire.StepChunk, Chunk: n}, data)
}

// Finish has every image read back and held to the signed digest. After it the
// release may be tried, and the session is over.
func (i *Install) Finish(ctx context.Context, progress func(done, total int64)) error {
	if _, err := i.ask(ctx, helperwire.Request{Version: 1, Verb: helperwire.StepFinish}, nil, progress); err != nil {
		return fmt.Errorf("finish install: %w", err)
	}
	return nil
}

// Close ends the session. What the helper wrote stays, and the next session finds it.
func (i *Install) Close() error { return i.conn.Close() }

func (i *Install) do(ctx context.Context, what string, r helperwire.Request, raw []byte) error {
	if _, err := i.ask(ctx, r, raw, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// ask sends one step and returns its answer, past reports of progress.
func (i *Install) ask(ctx context.Context, r helperwire.Request, raw []byte, progress func(done, total int64)) (*helperwire.Response, error) {
	defer context.AfterFunc(ctx, func() { i.conn.SetDeadline(time.Unix(1, 0)) })()
	r.Raw = int64(len(raw))
	frame, err := helperwire.Encode(r)
	if err != nil {
		return nil, err
	}
	if err := i.arm(ctx); err != nil {
		return nil, err
	}
	buffers := net.Buffers{frame, raw}
	if _, err := buffers.WriteTo(i.conn); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	for range maxUnread {
		if err := i.arm(ctx); err != nil {
			return nil, err
		}
		response, files, err := read(i.conn)
		closeAll(files)
		if err != nil || response.Progress == nil {
			return response, err
		}
		if progress != nil {
			progress(response.Progress.Done, response.Progress.Total)
		}
	}
	return nil, errors.New("the helper never ends this step")
}

func (i *Install) arm(ctx context.Context) error {
	if err := i.conn.SetDeadline(time.Now().Add(stepTimeout)); err != nil {
		return err
	}
	return ctx.Err()
}
