package health

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

func start(t *testing.T, c Config) *Tracker {
	t.Helper()
	c.Now, c.Log = time.Now, slog.New(slog.DiscardHandler)
	tracker, err := NewTracker(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tracker.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	return tracker
}

func always(status, summary string) func(context.Context) (string, string) {
	return func(context.Context) (string, string) { return status, summary }
}

func TestAHangingCheckCostsOnlyItsOwnFindingAndOneGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var started atomic.Int32
		hang := func(context.Context) (string, string) { // ignores its context, as a dead disk does
			started.Add(1)
			<-release
			return OK, "back"
		}
		tracker := start(t, Config{Timeout: time.Second, Checks: []Check{
			{Name: "dead", Every: time.Minute, Run: hang},
			{Name: "good", Every: time.Minute, Run: always(OK, "fine")},
		}})
		time.Sleep(10 * time.Minute)
		if n := started.Load(); n != 1 {
			t.Errorf("the hanging check was started %d times", n)
		}
		r := tracker.Report()
		if r.Findings[0].Status != Unknown || !strings.Contains(r.Findings[0].Summary, "did not finish within 1s") {
			t.Errorf("hanging check: %+v", r.Findings[0])
		}
		if r.Findings[1].Status != OK || r.Grade != Unknown {
			t.Errorf("good check: %+v, grade %s", r.Findings[1], r.Grade)
		}
		close(release)
		time.Sleep(2 * time.Minute)
		if r := tracker.Report(); r.Grade != OK || r.Findings[0].Summary != "back" {
			t.Errorf("after the disk came back: %+v", r)
		}
	})
}

func TestAPanicBecomesAFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := start(t, Config{Checks: []Check{
			{Name: "bad", Every: time.Minute, Run: func(context.Context) (string, string) { panic("bug") }},
			{Name: "odd", Every: time.Minute, Run: always("green", "")},
			{Name: "long", Every: time.Minute, Run: always(OK, strings.Repeat("x", 2*wire.MaxText))},
		}})
		synctest.Wait()
		for i, want := range []string{"bug of the agent", "x", "no status"} {
			if f := tracker.Report().Findings[i]; !strings.Contains(f.Summary, want) || len(f.Summary) > wire.MaxText {
				t.Errorf("got %+v, want it to contain %q", f, want)
			}
		}
	})
}

// BUDGETS 3 allows 0.2 wakeups a second for all of the agent.
func TestIdleWakeupsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wakes atomic.Int32
		var last atomic.Int64
		count := func(context.Context) (string, string) {
			if now := time.Now().UnixNano(); last.Swap(now) != now {
				wakes.Add(1)
			}
			return OK, ""
		}
		var checks []Check
		for i, every := range []time.Duration{300, 300, 310, 295, 320, 3600, 280} {
			checks = append(checks, Check{Name: string(rune('a' + i)), Every: every * time.Second, Run: count})
		}
		start(t, Config{Checks: checks})
		time.Sleep(24 * time.Hour)
		if n, budget := wakes.Load(), int32(24*3600/300+1); n > budget {
			t.Errorf("%d wakeups in a day for 7 checks, want at most %d", n, budget)
		}
	})
}

func TestEveryCheckRunsAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fast, slow atomic.Int32
		count := func(n *atomic.Int32) func(context.Context) (string, string) {
			return func(context.Context) (string, string) { n.Add(1); return OK, "" }
		}
		start(t, Config{Checks: []Check{{Name: "fast", Every: 5 * time.Minute, Run: count(&fast)}, {Name: "slow", Every: time.Hour, Run: count(&slow)}}})
		time.Sleep(10*time.Hour + time.Minute)
		if f, s := fast.Load(), slow.Load(); f != 121 || s != 11 {
			t.Errorf("in ten hours: fast ran %d times (want 121), slow %d (want 11)", f, s)
		}
	})
}

func TestSinceAndOnChangeFollowTheStatusAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var status, summary atomic.Value
		status.Store(OK)
		summary.Store("one")
		reports := make(chan Report, 10)
		began := time.Now()
		tracker := start(t, Config{OnChange: func(r Report) { reports <- r }, Checks: []Check{{Name: "a", Every: time.Minute, Run: func(context.Context) (string, string) {
			return status.Load().(string), summary.Load().(string)
		}}}})
		synctest.Wait()
		first := <-reports
		summary.Store("two")
		time.Sleep(90 * time.Second)
		if len(reports) != 0 {
			t.Error("a changed summary alone was reported as a change")
		}
		if r := tracker.Report(); r.Posture == first.Posture || !r.Findings[0].Since.Equal(began) {
			t.Errorf("posture %s, since %s", r.Posture, r.Findings[0].Since)
		}
		status.Store(Critical)
		time.Sleep(time.Minute)
		if r := <-reports; r.Grade != Critical || !r.Findings[0].Since.After(began) {
			t.Errorf("got %+v", r)
		}
	})
}

func TestGradeIsTheWorst(t *testing.T) {
	order := []string{OK, Unknown, Warning, Critical}
	for i, a := range order {
		for j, b := range order {
			if got := Worse(a, b); got != order[max(i, j)] {
				t.Errorf("Worse(%s, %s) = %s", a, b, got)
			}
		}
	}
}

func TestIncompleteConfigurationIsRefused(t *testing.T) {
	log, run := slog.New(slog.DiscardHandler), always(OK, "")
	for name, c := range map[string]Config{
		"no checks": {Now: time.Now, Log: log},
		"no clock":  {Log: log, Checks: []Check{{Name: "a", Every: 1, Run: run}}},
		"no log":    {Now: time.Now, Checks: []Check{{Name: "a", Every: 1, Run: run}}},
		"no func":   {Now: time.Now, Log: log, Checks: []Check{{Name: "a", Every: 1}}},
		"no pace":   {Now: time.Now, Log: log, Checks: []Check{{Name: "a", Run: run}}},
		"twice":     {Now: time.Now, Log: log, Checks: []Check{{Name: "a", Every: 1, Run: run}, {Name: "a", Every: 1, Run: run}}},
	} {
		if _, err := NewTracker(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := All(Deps{}); err == nil {
		t.Error("All without dependencies: accepted")
	}
}
