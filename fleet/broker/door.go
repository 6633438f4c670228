package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
)

// door is the way in: it accepts, shakes hands and hands over. Each handshake
// has its own goroutine and deadline, and only so many run at a time.
type door struct {
	ctx    context.Context
	cfg    Config
	rules  *rules
	l      net.Listener
	slots  chan struct{} // one per handshake
	failed chan error
	once   sync.Once
	wg     sync.WaitGroup
}

func newDoor(ctx context.Context, cfg Config, l net.Listener, r *rules) *door {
	return &door{
		ctx: ctx, cfg: cfg, rules: r, l: l,
		slots: make(chan struct{}, cfg.Limits.Handshakes), failed: make(chan error, 1),
	}
}

// Serve accepts until the listener is closed. A full house is closed to at
// once: waiting would let a few silent peers keep everybody out.
func (d *door) Serve(establish listeners.EstablishFn) {
	for {
		c, err := d.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			var temporary net.Error
			if errors.As(err, &temporary) && temporary.Timeout() {
				continue
			}
			d.failed <- err
			return
		}
		select {
		case d.slots <- struct{}{}:
			d.wg.Go(func() { d.admit(c, establish) })
		default:
			d.cfg.Log.Warn("client refused: too many handshakes", "remote", c.RemoteAddr().String())
			_ = c.Close()
		}
	}
}

func (d *door) admit(c net.Conn, establish listeners.EstablishFn) {
	defer c.Close()
	limit := d.cfg.Limits.Handshake
	secure := &conn{Conn: tls.Server(c, d.cfg.TLS), write: d.cfg.Limits.Write}
	secure.tls = secure.Conn.(*tls.Conn)
	shake, cancel := context.WithTimeout(d.ctx, limit)
	err := secure.tls.HandshakeContext(shake)
	cancel()
	if err != nil {
		<-d.slots
		d.cfg.Log.Info("handshake refused", "remote", c.RemoteAddr().String(), "error", err)
		linger(c)
		return
	}
	// The slot is kept until the CONNECT packet came: what follows has a session
	// and counts as a client.
	secure.first = sync.OnceFunc(func() { <-d.slots })
	defer secure.first()
	// At the end the library takes leave of the clients it knows; one that is
	// still coming in must not hold up the end.
	stop := context.AfterFunc(d.ctx, func() { time.AfterFunc(time.Second, func() { _ = c.Close() }) })
	defer stop()
	defer d.rules.leave(secure)
	_ = secure.SetReadDeadline(time.Now().Add(limit))
	if err := establish(d.ID(), secure); err != nil {
		d.cfg.Log.Debug("client gone", "remote", c.RemoteAddr().String(), "error", err)
	}
}

// linger lets the alert arrive: closing with unread input would reset the
// connection, and the device would not learn that its certificate is refused.
func linger(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.CopyN(io.Discard, c, 64<<10)
	}
}

// Close is called by the library.
func (d *door) Close(closeClients listeners.CloseFn) {
	d.once.Do(func() {
		_ = d.l.Close()
		closeClients(d.ID())
	})
}

func (d *door) wait() { d.wg.Wait() }

// Init, ID, Address and Protocol describe the listener to the library.
func (d *door) Init(*slog.Logger) error { return nil }
func (d *door) ID() string              { return "mqtts" }
func (d *door) Address() string         { return d.l.Addr().String() }
func (d *door) Protocol() string        { return "tls" }

// conn bounds each write, whatever the client's keep-alive: the library holds
// locks that other clients' messages need while it writes.
type conn struct {
	net.Conn
	tls   *tls.Conn
	write time.Duration
	first func() // frees the handshake's slot
}

func (c *conn) Write(p []byte) (int, error) {
	if c.first != nil {
		c.first() // whatever is written answers the CONNECT packet
	}
	if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetDeadline is how the library renews the keep-alive: it must not move the
// deadline of a write that hangs.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

var _ listeners.Listener = (*door)(nil)
