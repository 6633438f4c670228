package device

import (
	"net/netip"
	"sync"
	"time"
)

// rate allows each source a burst of requests and then one at each interval. It
// protects this process only, so it is in memory. Safe for concurrent use.
type rate struct {
	mu      sync.Mutex
	sources map[netip.Prefix]time.Time // when the source's allowance will be whole again
}

func newRate() *rate { return &rate{sources: make(map[netip.Prefix]time.Time)} }

// allow counts a request of source, a host:port, and returns how long to wait if
// there were too many; 0 if it may go on.
func (r *rate) allow(source string, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := sourceOf(source)
	if _, known := r.sources[key]; !known && len(r.sources) >= maxSources {
		r.forget(now)
		if len(r.sources) >= maxSources {
			key = netip.Prefix{}
		}
	}
	whole := r.sources[key]
	if whole.Before(now) || whole.Sub(now) > enrollBurst*enrollEvery { // or the clock was ahead
		whole = now
	}
	whole = whole.Add(enrollEvery)
	if over := whole.Sub(now) - enrollBurst*enrollEvery; over > 0 {
		return over
	}
	r.sources[key] = whole
	return 0
}

// forget drops the sources whose allowance is whole.
func (r *rate) forget(now time.Time) {
	for key, whole := range r.sources {
		if !whole.After(now) {
			delete(r.sources, key)
		}
	}
}

// sourceOf is the address, of IPv6 the /64: whoever has one has all of it.
func sourceOf(hostport string) netip.Prefix {
	address, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Prefix{}
	}
	ip := address.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}
