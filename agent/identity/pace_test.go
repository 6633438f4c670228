package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"testing/quick"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

func TestRenewalFallsIntoAWindowFixedByTheSerial(t *testing.T) {
	property := func(start uint32, minutes uint32, serial []byte) bool {
		from, life := time.Unix(int64(start), 0), time.Duration(minutes%(10*365*24*60)+1)*time.Minute
		at := RenewAt(from, from.Add(life), serial)
		share := float64(at.Sub(from)) / float64(life)
		moved := RenewAt(from.Add(time.Hour), from.Add(life+time.Hour), serial)
		return share > 2.0/3-0.05-1e-6 && share < 2.0/3+1e-6 && at.Equal(RenewAt(from, from.Add(life), serial)) && moved.Equal(at.Add(time.Hour))
	}
	if err := quick.Check(property, nil); err != nil {
		t.Error(err)
	}
}

func TestFleetEnrolledInOneHourDoesNotRenewInOne(t *testing.T) {
	const week = 7 * 24 * time.Hour
	from := time.Unix(1_800_000_000, 0)
	hours := map[int]int{}
	for n := range 1000 {
		at := RenewAt(from, from.Add(week), []byte{byte(n), byte(n >> 8)})
		hours[int(at.Sub(from).Hours())]++
	}
	for hour, n := range hours {
		if n > 250 {
			t.Errorf("%d of 1000 devices renew in hour %d", n, hour)
		}
	}
}

func TestBackoffIsFullJitterWithABound(t *testing.T) {
	for failures := range 100 {
		bound := lastBackoff
		if failures < 10 {
			bound = min(firstBackoff<<failures, lastBackoff)
		}
		low, high := false, false
		for range 200 {
			wait := backoff(errors.New("no"), failures)
			if wait <= 0 || wait > bound+firstBackoff/10 {
				t.Fatalf("after %d failures %s, bound is %s", failures, wait, bound)
			}
			low, high = low || wait < bound/3+firstBackoff/10, high || wait > bound*2/3
		}
		if !low || !high {
			t.Fatalf("after %d failures the waits are not spread", failures)
		}
	}
}

func TestOnlyARefusedIdentityIsRecoveredByEKAndAK(t *testing.T) {
	refused := func(status int, rule string) error {
		return fmt.Errorf("send evidence: %w", &Refused{wire.Problem{Status: status, Rule: rule}})
	}
	network := func(op string) error {
		return &url.Error{Op: "Post", Err: &net.OpError{Op: op, Err: errors.New("x")}}
	}
	for name, c := range map[string]struct {
		err     error
		expired bool
		want    bool
	}{
		"certificate refused by alert":        {network("remote error"), false, true},
		"alert from the second address":       {errors.Join(network("dial"), network("remote error")), false, true},
		"hung up on before the alert is read": {network("write"), false, true},
		"nobody there":                        {network("dial"), false, false},
		"nobody there, expired":               {network("dial"), true, false},
		"connection reset":                    {network("read"), false, false},
		"connection reset, expired":           {network("read"), true, true},
		"certificate refused":                 {refused(403, "certificate"), false, true},
		"attestation key unknown":             {refused(403, "evidence.signature"), false, true},
		"key proof by another AK":             {refused(403, "key-proof"), false, true},
		"pending again":                       {refused(403, "pending"), false, true},
		"revoked":                             {refused(403, "revoked"), true, false},
		"stale verdict":                       {refused(403, wire.RuleStaleVerdict), true, false},
		"nonce too old: the link is slow":     {refused(403, "evidence.nonce"), false, false},
		"overtaken by another answer":         {refused(403, "evidence.order"), false, false},
		"overloaded":                          {refused(503, ""), true, false},
		"overloaded, whatever it says":        {refused(503, "certificate"), true, false},
		"too often":                           {refused(429, "rate"), true, false},
		"key of another TPM":                  {fmt.Errorf("sign: %w", tpm.ErrReplaced), false, true},
		"something else":                      {errors.New("x"), false, false},
		"answer of a captive portal":          {errors.New("answered 200 with text/html"), false, false},
		"answer of a captive portal, expired": {errors.New("answered 200 with text/html"), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustRecover(c.err, c.expired); got != c.want {
				t.Errorf("recover: %v, want %v", got, c.want)
			}
		})
	}
}

// sleeper is an Identity of which only the pace is used.
func sleeper() *Identity {
	return &Identity{cfg: Config{After: time.After}, kick: make(chan string, 1)}
}

func TestKickStormMakesOneExchangePerGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := sleeper()
		ctx, cancel := context.WithCancel(t.Context())
		var storm sync.WaitGroup
		for range 10 {
			storm.Go(func() {
				for ctx.Err() == nil {
					i.Kick("storm")
					time.Sleep(time.Millisecond)
				}
			})
		}
		start := time.Now()
		for range 10 {
			why, err := i.sleep(ctx, time.Hour, "", false)
			if err != nil || why != "storm" {
				t.Fatalf("woke for %q, %v", why, err)
			}
		}
		if took := time.Since(start); took < 10*kickGap || took > 11*kickGap {
			t.Errorf("ten exchanges within %s", took)
		}
		cancel()
		storm.Wait()
	})
}

func TestKickDoesNotOutrunTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := sleeper()
		i.Kick("now!")
		start := time.Now()
		why, err := i.sleep(t.Context(), time.Minute, "", true)
		if err != nil || why != "now!" {
			t.Errorf("woke for %q, %v", why, err)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("slept %s of a minute", took)
		}
	})
}

func TestKickIsHeardLateInASleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := sleeper()
		start := time.Now()
		time.AfterFunc(10*time.Minute, func() { i.Kick("the broker refuses") })
		why, err := i.sleep(t.Context(), time.Hour, "", false)
		if err != nil || why != "the broker refuses" || time.Since(start) != 10*time.Minute {
			t.Errorf("woke for %q after %s, %v", why, time.Since(start), err)
		}
		if why, err = i.sleep(t.Context(), time.Hour, "", false); err != nil || why != "" {
			t.Errorf("after an hour: %q, %v", why, err)
		}
		if why, err = i.sleep(t.Context(), time.Second, "what failed", true); err != nil || why != "what failed" {
			t.Errorf("after a failure: %q, %v", why, err)
		}
	})
}

func TestRotateGivesUpWithItsCaller(t *testing.T) {
	i := &Identity{exchange: make(chan struct{}, 1)}
	if err := i.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.Rotate(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestRunLeavesNothingRunning(t *testing.T) {
	w := newWorld(t, nil)
	g, i := w.enrolled()
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	old := serial(i)
	i.Kick("test")
	until(t, "the certificate is a new one", func() bool { return serial(i) != old })
	cancel()
	<-ended
	if c, ok := i.Current(); ok {
		c.tls.http.CloseIdleConnections()
	}
	w.stop()
	w.must(g.tpm.Close())
	goleak.VerifyNone(t, before)
}
