package registry

import "sync"

// watchBuffer is how many changes a subscriber may be behind before they are
// folded into one, count.
const watchBuffer = 64

// watch tells subscribers of this process which devices changed.
type watch struct {
	mu   sync.Mutex
	subs map[chan string]struct{}
}

// Subscribe reports the ids of devices that changed through this Store. "" says
// that anything may have changed: the fleet itself, or more than the subscriber
// was quick enough to receive. Nothing is ever blocked by a slow subscriber.
// The returned func ends the subscription; the channel is then closed.
func (s *Store) Subscribe() (<-chan string, func()) {
	ch := make(chan string, watchBuffer)
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if s.watch.subs == nil {
		s.watch.subs = make(map[chan string]struct{})
	}
	s.watch.subs[ch] = struct{}{}
	return ch, sync.OnceFunc(func() {
		s.watch.mu.Lock()
		defer s.watch.mu.Unlock()
		delete(s.watch.subs, ch)
		close(ch)
	})
}

// changed is called after the commit.
func (s *Store) changed(device string) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	for ch := range s.watch.subs {
		select {
		case ch <- device:
		default:
			drain(ch)
			ch <- "" // there is room: only changed sends, under the lock
		}
	}
}

func drain(ch chan string) {
	for {
		select {
		case <-ch:
		default:
			return
		}
	}
}
