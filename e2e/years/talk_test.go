package years

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// talk is one session with the broker, as the agent has all the time: it lasts
// until the fleet has judged the gateway, or the broker refuses it. It returns
// the grade, or "refused". What that moved the agent to do is done by then.
func (g *gateway) talk() string {
	g.Helper()
	outbox, err := link.OpenOutbox(filepath.Join(g.dir, "outbox.db"), link.DefaultLimits(), quiet(g.T))
	g.must(err)
	defer outbox.Close()
	s := &session{gateway: g, ends: make(chan string, 1)}
	s.link, err = link.New(link.Config{
		Brokers: func() []string { return g.trusted.Broker }, TLS: g.identity.TLS, Outbox: outbox,
		Keys: func() []ed25519.PublicKey {
			var keys []ed25519.PublicKey
			for _, key := range g.trusted.MessageKeys {
				keys = append(keys, key)
			}
			return keys
		},
		Hello: hello, Handle: s.handle, MaxBackoff: 100 * time.Millisecond, Log: quiet(g.T),
		OnRefused: func(reason string) {
			s.end("refused", func() bool { g.identity.Kick("the broker refuses this identity: " + reason); return true })
		},
	})
	g.must(err)
	ctx, cancel := context.WithCancel(g.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.link.Run(ctx) }() // its error is that of ctx
	defer func() { cancel(); <-ended }()
	// The fleet's own client may not be there yet, after a start: ask again.
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for deadline := time.After(patience); ; {
		select {
		case grade := <-s.ends:
			if s.kicked {
				g.settle(g.T)
			}
			return grade
		case <-again.C:
			_ = s.link.Publish(ctx, wire.KindHello, hello()) // it may not be connected
		case <-deadline:
			g.Fatalf("no verdict came; the link says %+v", s.link.Status())
		}
	}
}

func hello() wire.Hello { return wire.Hello{Version: 1, Software: "1", Boot: "b", Connected: true} }

type session struct {
	*gateway
	link   *link.Link
	ends   chan string
	kicked bool // of what ended it; set before ends
	once   sync.Once

	mu     sync.Mutex
	nonces [][]byte // of the challenges that were answered in it
}

// end has the agent moved once, whatever more comes; move says whether it was.
func (s *session) end(how string, move func() bool) {
	s.once.Do(func() {
		s.kicked = move()
		s.ends <- how
	})
}

// handle is what agent.Agent does with what the fleet sends.
func (s *session) handle(ctx context.Context, kind wire.Kind, payload []byte) {
	switch kind {
	case wire.KindChallenge:
		var c wire.Challenge
		err := strictjson.Unmarshal(payload, &c)
		if err == nil {
			err = s.answer(ctx, c)
		}
		if err != nil && ctx.Err() == nil {
			s.Errorf("answer a challenge: %v", err)
		}
	case wire.KindVerdict:
		var v wire.Verdict
		if err := strictjson.Unmarshal(payload, &v); err != nil {
			s.Errorf("read a verdict: %v", err)
			return
		}
		if !s.asked(v.Nonce) {
			return // it had waited for the gateway since the last session
		}
		s.end(v.Grade, func() bool { return s.identity.Heed(v) })
	}
}

func (s *session) answer(ctx context.Context, c wire.Challenge) error {
	s.tick()
	ev, err := s.collector.Collect(ctx, c, s.identity.Keys()...)
	if err != nil {
		return err
	}
	s.identity.Saw(ev.Quote)
	s.mu.Lock()
	s.nonces = append(s.nonces, c.Nonce)
	s.mu.Unlock()
	return s.link.Publish(ctx, wire.KindEvidence, ev)
}

func (s *session) asked(nonce []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.nonces, func(n []byte) bool { return bytes.Equal(n, nonce) })
}
