package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Client calls the API over its socket. Safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client of the server that listens on socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: dial}}}
}

// Devices lists those that match query: state, grade, model, search, after.
func (c *Client) Devices(ctx context.Context, query url.Values) ([]Device, error) {
	var list []Device
	err := c.do(ctx, http.MethodGet, "/v1/devices?"+query.Encode(), nil, &list)
	return list, err
}

// Device returns all about one.
func (c *Client) Device(ctx context.Context, id string) (Detail, error) {
	var d Detail
	err := c.do(ctx, http.MethodGet, "/v1/devices/"+url.PathEscape(id), nil, &d)
	return d, err
}

// Evidence is what the last verdict on a device rests on.
func (c *Client) Evidence(ctx context.Context, id string) (*attest.Recorded, error) {
	r := new(attest.Recorded)
	err := c.do(ctx, http.MethodGet, "/v1/devices/"+url.PathEscape(id)+"/evidence", nil, r)
	return r, err
}

// Approve lets a device in.
func (c *Client) Approve(ctx context.Context, id string, d Decision) error {
	return c.do(ctx, http.MethodPost, "/v1/devices/"+url.PathEscape(id)+"/approve", d, nil)
}

// Revoke shuts a device out, until somebody approves it again.
func (c *Client) Revoke(ctx context.Context, id string, d Decision) error {
	return c.do(ctx, http.MethodPost, "/v1/devices/"+url.PathEscape(id)+"/revoke", d, nil)
}

// Decommission takes a device out of the fleet in good order.
func (c *Client) Decommission(ctx context.Context, id string, d Decision) error {
	return c.do(ctx, http.MethodPost, "/v1/devices/"+url.PathEscape(id)+"/decommission", d, nil)
}

// Transfer ends all that a device was granted: its next holder begins anew.
func (c *Client) Transfer(ctx context.Context, id string, d Decision) error {
	return c.do(ctx, http.MethodPost, "/v1/devices/"+url.PathEscape(id)+"/transfer", d, nil)
}

// Tokens lists one-time tokens, newest first.
func (c *Client) Tokens(ctx context.Context) (list []Token, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/tokens", nil, &list)
	return list, err
}

// NewToken makes one; its text is in the answer, and never again.
func (c *Client) NewToken(ctx context.Context, ask NewToken) (t Token, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/tokens", ask, &t)
	return t, err
}

// RevokeToken ends an unused token.
func (c *Client) RevokeToken(ctx context.Context, id string, d Decision) error {
	return c.do(ctx, http.MethodPost, "/v1/tokens/"+url.PathEscape(id)+"/revoke", d, nil)
}

// AllowList is the list of EKs that are admitted before they come.
func (c *Client) AllowList(ctx context.Context) (list []Allowed, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/allowed", nil, &list)
	return list, err
}

// Allow adds an entry.
func (c *Client) Allow(ctx context.Context, e Allowed) error {
	return c.do(ctx, http.MethodPost, "/v1/allowed", e, nil)
}

// Disallow removes an entry.
func (c *Client) Disallow(ctx context.Context, e Allowed) error {
	return c.do(ctx, http.MethodPost, "/v1/allowed/remove", e, nil)
}

// Command hands in an envelope for one device and returns its hash.
func (c *Client) Command(ctx context.Context, id string, e wire.Envelope) (string, error) {
	var answer struct {
		Envelope string `json:"envelope"`
	}
	err := c.do(ctx, http.MethodPost, "/v1/devices/"+url.PathEscape(id)+"/commands", e, &answer)
	return answer.Envelope, err
}

// Firmware lists what gateways show and nobody approved.
func (c *Client) Firmware(ctx context.Context) ([]Firmware, error) {
	var list []Firmware
	err := c.do(ctx, http.MethodGet, "/v1/firmware", nil, &list)
	return list, err
}

// ApproveFirmware makes such firmware good for its model.
func (c *Client) ApproveFirmware(ctx context.Context, d FirmwareDecision) error {
	return c.do(ctx, http.MethodPost, "/v1/firmware/approve", d, nil)
}

func (c *Client) do(ctx context.Context, method, path string, body, answer any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://fleet"+path, reader)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("reach the fleet server at %s (is it running, and are you in its group?): %w", c.socket, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxMessage))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var p wire.Problem
		if json.Unmarshal(data, &p) != nil {
			return fmt.Errorf("the fleet server answered %s", resp.Status)
		}
		return errors.New(p.Title + "\nhint: " + p.Detail)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}
