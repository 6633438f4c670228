package mqttconn

import (
	"fmt"
	"net"
)

// limitedConn reads along and breaks the connection at the header of a packet
// that is longer than limit, before anybody makes room for it. One reader.
type limitedConn struct {
	net.Conn
	limit  int
	failed func(error) // told of the first read error

	length  int // of the packet whose header is being read
	shift   int // 7 per length byte read
	started bool
	left    int // bytes of the packet's body that are still to come
}

func (l *limitedConn) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if long := l.follow(p[:n]); long != nil {
		n, err = 0, long
	}
	if err != nil {
		l.failed(fmt.Errorf("read from broker: %w", err))
	}
	return n, err
}

// follow steps through the fixed headers in p (MQTT 5, 2.1.4).
func (l *limitedConn) follow(p []byte) error {
	for len(p) > 0 {
		switch {
		case l.left > 0:
			n := min(l.left, len(p))
			l.left -= n
			p = p[n:]
			continue
		case !l.started:
			l.started, l.length, l.shift = true, 0, 0
		default:
			l.length |= int(p[0]&0x7f) << l.shift
			l.shift += 7
			if l.length > l.limit || l.shift > 28 {
				return fmt.Errorf("packet is longer than %d bytes", l.limit)
			}
			if p[0]&0x80 == 0 {
				l.started, l.left = false, l.length
			}
		}
		p = p[1:]
	}
	return nil
}
