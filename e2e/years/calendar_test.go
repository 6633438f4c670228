package years

import (
	"sync"
	"testing"
	"time"
)

const (
	day  = 24 * time.Hour
	week = 7 * day

	// moment is the longest sleep that nobody waits for: time passes by itself.
	moment = time.Second
	// patience is how long something may take that takes milliseconds, by the
	// clock on the wall of whoever runs the test.
	patience = 3 * time.Minute
)

// calendar is the true time, which only the test lets pass. One party at a time
// sleeps by it.
type calendar struct {
	asleep chan struct{} // gets a value each time that somebody falls asleep

	mu    sync.Mutex
	now   time.Time
	until time.Time      // the sleeper wants to be woken
	alarm chan time.Time // nil: nobody sleeps
}

func newCalendar(now time.Time) *calendar {
	return &calendar{asleep: make(chan struct{}, 1), now: now}
}

func (c *calendar) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// after is time.After by the calendar.
func (c *calendar) after(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	alarm := make(chan time.Time, 1)
	if d <= moment {
		c.now = c.now.Add(d)
		alarm <- c.now
		return alarm
	}
	c.until, c.alarm = c.now.Add(d), alarm
	c.asleep <- struct{}{}
	return alarm
}

// settle waits until the sleeper sleeps again, after whatever woke it.
func (c *calendar) settle(t *testing.T) {
	t.Helper()
	select {
	case <-c.asleep:
	case <-time.After(patience):
		t.Fatal("the agent neither works nor rests")
	}
}

// turn moves to the next alarm and wakes the sleeper, or to end if that is earlier.
func (c *calendar) turn(end time.Time) (woken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alarm == nil || c.until.After(end) {
		c.now = end
		return false
	}
	if c.until.After(c.now) {
		c.now = c.until
	}
	c.alarm <- c.now
	c.alarm = nil
	return true
}

// forget lets the sleeper go: it is awake for good.
func (c *calendar) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm = nil
	select {
	case <-c.asleep:
	default:
	}
}
