// Package client asks the helper, the process that runs as root. The helper
// decides by itself: what a client claims has no weight, only what it hands over
// signed.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	defaultTimeout = 30 * time.Second // for one request: the helper may have to start first
	maxFiles       = 2                // files in one response, count
)

// Info is what the helper says of itself and this device.
type Info = helperwire.Info

// Client makes one connection per request or install session: between them the
// helper may exit. Safe for concurrent use.
type Client struct{ path string }

// New makes a client for the helper that listens at path. It connects later.
func New(path string) *Client { return &Client{path: path} }

// Info asks who this device is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	response, files, err := c.ask(ctx, helperwire.Request{Version: 1, Verb: helperwire.VerbInfo})
	closeAll(files)
	if err == nil && response.Info == nil {
		err = errors.New("the helper's answer is empty")
	}
	if err != nil {
		return Info{}, fmt.Errorf("ask helper for device information: %w", err)
	}
	return *response.Info, nil
}

// Logs returns the event log and the IMA list, open for reading. One that the
// machine does not have is nil. The caller closes both.
func (c *Client) Logs(ctx context.Context) (eventLog, ima *os.File, err error) {
	response, files, err := c.ask(ctx, helperwire.Request{Version: 1, Verb: helperwire.VerbLogs})
	if err == nil && response.Logs == nil {
		err = errors.New("the helper's answer is empty")
	}
	if err == nil {
		eventLog, ima, err = sort(*response.Logs, files)
	}
	if err != nil {
		closeAll(files)
		return nil, nil, fmt.Errorf("ask helper for boot logs: %w", err)
	}
	return eventLog, ima, nil
}

func sort(logs helperwire.Logs, files []*os.File) (eventLog, ima *os.File, err error) {
	rest := files
	if logs.Event && len(rest) > 0 {
		eventLog, rest = rest[0], rest[1:]
	}
	if logs.IMA && len(rest) > 0 {
		ima, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 || logs.Event != (eventLog != nil) || logs.IMA != (ima != nil) {
		return nil, nil, fmt.Errorf("the helper sent %d files, not those it named", len(files))
	}
	return eventLog, ima, nil
}

// Reboot hands over the operators' envelope. A *policy.Refusal says that the
// helper, by its own policy, time and ledger, refused it.
func (c *Client) Reboot(ctx context.Context, env wire.Envelope) error {
	return c.do(ctx, "reboot", helperwire.Request{Version: 1, Verb: helperwire.VerbReboot, Envelope: &env})
}

func (c *Client) ask(ctx context.Context, request helperwire.Request) (*helperwire.Response, []*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	frame, err := helperwire.Encode(request)
	if err != nil {
		return nil, nil, err
	}
	if _, err := conn.Write(frame); err != nil {
		return nil, nil, fmt.Errorf("write request: %w", err)
	}
	return read(conn)
}

func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no helper listens at %s; is gatewarden-helper.socket active?: %w", c.path, err)
	case err != nil:
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// read takes the files that come with the first byte, then the frame. On error
// it has closed them.
func read(conn *net.UnixConn) (*helperwire.Response, []*os.File, error) {
	r := &fileReader{conn: conn}
	var response helperwire.Response
	err := helperwire.Read(r, &response)
	switch {
	case err != nil:
	case r.fault != nil:
		err = r.fault
	case response.Version != 1:
		err = fmt.Errorf("the helper speaks version %d, not 1", response.Version)
	case response.Error != nil && response.Error.Rule != "":
		err = &policy.Refusal{Rule: response.Error.Rule, Text: response.Error.Text}
	case response.Error != nil:
		err = errors.New(response.Error.Text)
	}
	if err != nil {
		closeAll(r.files)
		return nil, nil, err
	}
	return &response, r.files, nil
}

// fileReader reads a stream and collects the files that come along. What is wrong
// with them is kept in fault: io.ReadFull forgets an error that comes with the
// last byte it wanted.
type fileReader struct {
	conn  *net.UnixConn
	files []*os.File
	fault error
}

func (r *fileReader) Read(p []byte) (int, error) {
	control := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, controlSize, flags, _, err := r.conn.ReadMsgUnix(p, control)
	if controlSize > 0 {
		files, fault := received(control[:controlSize])
		r.files = append(r.files, files...)
		r.fault = errors.Join(r.fault, fault)
	}
	if flags&unix.MSG_CTRUNC != 0 || len(r.files) > maxFiles {
		r.fault = errors.Join(r.fault, errors.New("more files arrived than a response may have"))
	}
	if err == nil {
		err = r.fault
	}
	return n, err
}

func received(control []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("read files: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		numbers, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, fmt.Errorf("read files: %w", err)
		}
		for _, fd := range numbers {
			files = append(files, os.NewFile(uintptr(fd), "log"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
