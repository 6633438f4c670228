package policy

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/sshsig/sshsigtest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

const (
	fleet  = "acme-eu"
	device = "gw-abcdefgh234567aa"
	other  = "gw-zzzzzzzz234567aa"
)

func now() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }

// key returns the same key for the same letter.
func key(letter byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(letter), 32)))
}

func line(t testing.TB, letter byte) string {
	t.Helper()
	k, err := sshsigtest.Line(key(letter).Public())
	if err != nil {
		t.Fatal(err)
	}
	return k + " comment"
}

// operators: anna has the keys a and A, ben b, cleo c. Ping takes one of them,
// reboot two, rotate is ben's alone.
func operators(t testing.TB) *Operators {
	t.Helper()
	o, err := ParseOperators(encode(t, document(t)))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func document(t testing.TB) Operators {
	t.Helper()
	return Operators{
		Version: 1, Issued: now(), Fleet: fleet,
		People: []Person{
			{Name: "anna", Keys: []string{line(t, 'a'), line(t, 'A')}},
			{Name: "ben", Keys: []string{line(t, 'b')}},
			{Name: "cleo", Keys: []string{line(t, 'c')}},
		},
		Verbs: map[string]Grant{
			VerbPing:   {People: []string{"anna", "ben", "cleo"}, Threshold: 1},
			VerbReboot: {People: []string{"anna", "ben"}, Threshold: 2},
			VerbRotate: {People: []string{"ben"}, Threshold: 1},
		},
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func command(verb string) wire.Command {
	return wire.Command{
		Version: 1, Fleet: fleet, Devices: []string{device}, ID: "0123456789abcdef", Verb: verb,
		NotBefore: now().Add(-time.Minute), Expires: now().Add(time.Hour), Reason: "because",
	}
}

func sign(t testing.TB, message []byte, letters string) wire.Envelope {
	t.Helper()
	env := wire.Envelope{Command: message}
	for _, letter := range []byte(letters) {
		armored, err := sshsigtest.Sign(key(letter), message, wire.CommandNamespace)
		if err != nil {
			t.Fatal(err)
		}
		env.Signatures = append(env.Signatures, string(armored))
	}
	return env
}

func request(env wire.Envelope) Request {
	return Request{Envelope: env, Fleet: fleet, Device: device, Now: now(), TimeTrusted: true}
}

// wantRule checks that r is refused by rule, with a sentence.
func wantRule(t *testing.T, o *Operators, r Request, rule string) *Refusal {
	t.Helper()
	cmd, people, err := o.Authorize(r)
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("error is %v, want a refusal by %s", err, rule)
	}
	if refusal.Rule != rule || !strings.HasSuffix(refusal.Text, ".") || people != nil || cmd.Verb != "" {
		t.Errorf("refused by %q (%s), command %+v; want %q", refusal.Rule, refusal.Text, cmd, rule)
	}
	return refusal
}
