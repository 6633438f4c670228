package agent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// TestNewerFleetMaySayMoreInVerdictsAndChallenges: an agent that was not updated yet
// takes what it knows, and is judged as ever.
func TestNewerFleetMaySayMoreInVerdictsAndChallenges(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	verdict, err := json.Marshal(wire.Verdict{Version: 1, Device: r.Device(), Grade: "degraded", Gate: wire.GateShort, Explanation: []string{"degraded: so they say"}})
	if err != nil {
		t.Fatal(err)
	}
	more := func(data []byte) []byte {
		return []byte(strings.Replace(string(data), "{", `{"of_a_later_release":{"a":[1,{"b":null}]},`, 1))
	}
	r.await(t, func(local.Status) error { // the true fleet's next verdict may come in between
		r.Receive(t.Context(), wire.KindVerdict, more(verdict))
		if s := r.Status(); s.Verdict.Grade != "degraded" || s.Verdict.Gate != wire.GateShort {
			return fmt.Errorf("the verdict is %s, %s", s.Verdict.Grade, s.Verdict.Gate)
		}
		return nil
	})
	challenge, err := json.Marshal(wire.Challenge{Nonce: make([]byte, wire.NonceSize)})
	if err != nil {
		t.Fatal(err)
	}
	if r.Receive(t.Context(), wire.KindChallenge, more(challenge)); r.Unable() > 0 {
		t.Error("the challenge was not answered")
	}
}
