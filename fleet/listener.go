package fleet

import (
	"net"
	"sync"
)

// maxConnections is how many devices may talk to the API at once. The next ones
// wait in the kernel's queue.
const maxConnections = 4096

// cappedListener accepts no more connections than it has slots. Each of them ends
// by a timeout of the server, so a slot always comes free.
type cappedListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func capConnections(l net.Listener) net.Listener {
	return &cappedListener{Listener: l, slots: make(chan struct{}, maxConnections), closed: make(chan struct{})}
}

func (l *cappedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &cappedConn{Conn: conn, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *cappedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type cappedConn struct {
	net.Conn
	free func()
}

func (c *cappedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
