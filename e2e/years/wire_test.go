package years

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/gatewarden/gatewarden/internal/freeport"
)

// cable carries connections to a server of the fleet until it is pulled.
type cable struct {
	address string // where the gateway reaches it
	to      string

	mu       sync.Mutex
	listener net.Listener
	open     []net.Conn
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	c := &cable{address: freeAddress(t), to: to}
	c.plug(t)
	t.Cleanup(c.pull)
	return c
}

func (c *cable) plug(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listener = l
	go c.carry(l)
}

// pull ends all connections; nobody can dial any more.
func (c *cable) pull() {
	c.mu.Lock()
	if c.listener != nil {
		c.listener.Close()
		c.listener = nil
	}
	c.mu.Unlock()
	c.cut()
}

// cut ends all connections, as hours without traffic do.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		conn.Close()
	}
	c.open = nil
}

func (c *cable) carry(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.to)
		if err != nil {
			near.Close()
			continue
		}
		c.mu.Lock()
		c.open = append(c.open, near, far)
		c.mu.Unlock()
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			go func() {
				_, _ = io.Copy(way[0], way[1]) // either end may go: then so does the other
				near.Close()
				far.Close()
			}()
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	addresses, err := freeport.Addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	return addresses[0]
}
