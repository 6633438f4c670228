package credential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits.
const (
	maxAtOnce  = 8                // questions that are answered at the same time
	openLimit  = time.Minute      // for the chip; the manager gives up after 90 seconds
	writeLimit = 10 * time.Second // for the manager to take what it asked for
	refusal    = 2 << 20          // bytes: the manager takes 1 MiB at most
)

// Config is what Serve needs. All fields must be set.
type Config struct {
	Listener *net.UnixListener
	// Open opens a secret for a unit, if it may have it. Unit and name are what the
	// manager said; nothing else was checked of them.
	Open func(ctx context.Context, unit, name string) ([]byte, error)
	// Idle is how long to wait for the next question before Serve ends.
	Idle time.Duration
	Log  *slog.Logger
}

// Serve answers until nobody has asked for Idle, or ctx ends.
func Serve(ctx context.Context, c Config) error {
	if c.Listener == nil || c.Open == nil || c.Idle <= 0 || c.Log == nil {
		return errors.New("serve credentials: the configuration is not complete")
	}
	stop := context.AfterFunc(ctx, func() { c.Listener.Close() })
	defer stop()
	var group errgroup.Group
	group.SetLimit(maxAtOnce)
	defer func() { _ = group.Wait() }() // answers have no error
	for {
		if err := c.Listener.SetDeadline(time.Now().Add(c.Idle)); err != nil {
			return errors.Join(ctx.Err(), err)
		}
		conn, err := c.Listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("serve credentials: %w", err)
		}
		group.Go(func() error {
			defer conn.Close()
			c.answer(ctx, conn)
			return nil
		})
	}
}

// answer writes the secret that the peer may have, or logs why there is none.
func (c *Config) answer(ctx context.Context, conn *net.UnixConn) {
	uid, err := PeerUser(conn)
	if err != nil || uid != 0 {
		c.Log.Warn("a user who is not root asked for a credential and got nothing", "user", uid, "error", err)
		return
	}
	unit, name, err := parseAddress(conn.RemoteAddr())
	if err != nil {
		c.Log.Warn("somebody who is not systemd asked for a credential and got nothing", "error", err)
		return
	}
	log := c.Log.With("unit", unit, "secret", name)
	opening, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	secret, err := c.Open(opening, unit, name)
	if err != nil {
		log.Error("the unit does not get its secret", "reason", err)
		secret = make([]byte, refusal)
	}
	if limitErr := conn.SetWriteDeadline(time.Now().Add(writeLimit)); limitErr != nil {
		log.Warn("limit the time of an answer", "error", limitErr)
		return
	}
	switch _, writeErr := conn.Write(secret); {
	case err != nil: // the manager took what it can, and hung up
	case writeErr != nil:
		log.Warn("the unit's secret was not taken", "error", writeErr)
	default:
		log.Info("the unit got its secret")
	}
}
