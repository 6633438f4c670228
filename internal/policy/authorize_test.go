package policy

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/sshsig/sshsigtest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func TestSignedCommandIsAuthorized(t *testing.T) {
	o := operators(t)
	cmd, people, err := o.Authorize(request(sign(t, encode(t, command(VerbReboot)), "ba")))
	if err != nil {
		t.Fatal(err)
	}
	if cmd.ID != "0123456789abcdef" || !slices.Equal(people, []string{"anna", "ben"}) {
		t.Errorf("command %+v by %v", cmd, people)
	}
}

func TestUnsignedCommandIsRefused(t *testing.T) {
	wantRule(t, operators(t), request(wire.Envelope{Command: encode(t, command(VerbPing))}), RuleUnsigned)
}

func TestCommandAlteredInOneByteIsRefused(t *testing.T) {
	o, message := operators(t), encode(t, command(VerbPing))
	env := sign(t, message, "a")
	for i := range message {
		env.Command = bytes.Clone(message)
		env.Command[i] ^= 1
		wantRule(t, o, request(env), RuleSignature)
	}
}

func TestSignatureForAnotherPurposeIsRefused(t *testing.T) {
	message := encode(t, command(VerbPing))
	armored, err := sshsigtest.Sign(key('a'), message, wire.PolicyNamespace)
	if err != nil {
		t.Fatal(err)
	}
	wantRule(t, operators(t), request(wire.Envelope{Command: message, Signatures: []string{string(armored)}}), RuleSignature)
}

func TestKeyWithoutRoleIsRefused(t *testing.T) {
	o := operators(t)
	wantRule(t, o, request(sign(t, encode(t, command(VerbPing)), "x")), RuleRole)
	wantRule(t, o, request(sign(t, encode(t, command(VerbPing)), "ax")), RuleRole)
	wantRule(t, o, request(sign(t, encode(t, command(VerbRotate)), "a")), RuleRole)
	wantRule(t, o, request(sign(t, encode(t, command(VerbAttest)), "abc")), RuleRole)
}

func TestThresholdCountsPeopleNotKeys(t *testing.T) {
	o, message := operators(t), encode(t, command(VerbReboot))
	wantRule(t, o, request(sign(t, message, "a")), RuleThreshold)
	wantRule(t, o, request(sign(t, message, "aA")), RuleThreshold)
	wantRule(t, o, request(sign(t, message, "aa")), RuleThreshold)
	wantRule(t, o, request(sign(t, message, "ac")), RuleThreshold) // cleo has no part in reboot
	if _, _, err := o.Authorize(request(sign(t, message, "Ab"))); err != nil {
		t.Error(err)
	}
}

func TestCommandForAnotherDeviceIsRefused(t *testing.T) {
	c := command(VerbPing)
	c.Devices = []string{other}
	refusal := wantRule(t, operators(t), request(sign(t, encode(t, c), "a")), RuleDevice)
	if refusal.ID != c.ID || refusal.Verb != VerbPing {
		t.Errorf("the record says %q, %q", refusal.ID, refusal.Verb)
	}
}

func TestCommandForAnotherFleetIsRefused(t *testing.T) {
	o := operators(t)
	c := command(VerbPing)
	c.Fleet = "acme-us"
	wantRule(t, o, request(sign(t, encode(t, c), "a")), RuleFleet)
	r := request(sign(t, encode(t, c), "a"))
	r.Fleet = c.Fleet // the device belongs there, but the operators document does not
	wantRule(t, o, r, RuleFleet)
}

func TestTime(t *testing.T) {
	o := operators(t)
	challenge := bytes.Repeat([]byte{7}, wire.NonceSize)
	for name, c := range map[string]struct {
		now       time.Time
		trusted   bool
		challenge []byte // in the command
		rule      string // "" runs
	}{
		"in time":                        {now: now(), trusted: true},
		"expired":                        {now: now().Add(2 * time.Hour), trusted: true, rule: RuleExpired},
		"expired by ten years":           {now: now().AddDate(10, 0, 0), trusted: true, rule: RuleExpired},
		"not yet":                        {now: now().Add(-time.Hour), trusted: true, rule: RuleNotYet},
		"no trusted time":                {now: now(), rule: RuleNoTrustedTime},
		"expired, no trusted time":       {now: now().Add(2 * time.Hour), rule: RuleExpired},
		"1970":                           {now: time.Unix(0, 0), rule: RuleNotYet},
		"1970 and challenge":             {now: time.Unix(0, 0), challenge: challenge},
		"+10 years and challenge":        {now: now().AddDate(10, 0, 0), challenge: challenge},
		"trusted time and challenge":     {now: now(), trusted: true, challenge: challenge},
		"expired, despite the challenge": {now: now().Add(2 * time.Hour), trusted: true, challenge: challenge, rule: RuleExpired},
		"no trusted time, old challenge": {now: now(), challenge: bytes.Repeat([]byte{8}, wire.NonceSize), rule: RuleNoTrustedTime},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command(VerbPing)
			if c.challenge != nil {
				cmd.Challenge = map[string][]byte{device: c.challenge}
			}
			r := request(sign(t, encode(t, cmd), "a"))
			r.Now, r.TimeTrusted, r.Challenge = c.now, c.trusted, challenge
			if c.rule != "" {
				wantRule(t, o, r, c.rule)
				return
			}
			if _, _, err := o.Authorize(r); err != nil {
				t.Error(err)
			}
		})
	}
}

// A device without a challenge must not take a command without one for fresh.
func TestAbsentChallengesDoNotMatch(t *testing.T) {
	r := request(sign(t, encode(t, command(VerbPing)), "a"))
	r.TimeTrusted = false
	wantRule(t, operators(t), r, RuleNoTrustedTime)
}

func TestMalformedCommandIsRefused(t *testing.T) {
	o, good := operators(t), string(encode(t, command(VerbPing)))
	edit := func(change func(*wire.Command)) string {
		c := command(VerbPing)
		change(&c)
		return string(encode(t, c))
	}
	for name, text := range map[string]string{
		"empty":         "",
		"not JSON":      "ping",
		"key twice":     strings.Replace(good, `"v":1`, `"v":1,"v":1`, 1),
		"case folded":   strings.Replace(good, `"verb"`, `"Verb"`, 1),
		"unknown key":   strings.Replace(good, `"v":1`, `"v":1,"group":"all"`, 1),
		"data behind":   good + "{}",
		"version":       edit(func(c *wire.Command) { c.Version = 2 }),
		"short id":      edit(func(c *wire.Command) { c.ID = "short" }),
		"path as id":    edit(func(c *wire.Command) { c.ID = "../../../../etc/passwd" }),
		"verb":          edit(func(c *wire.Command) { c.Verb = "Ping" }),
		"no devices":    edit(func(c *wire.Command) { c.Devices = nil }),
		"wildcard":      edit(func(c *wire.Command) { c.Devices = append(c.Devices, "*") }),
		"quarantine id": edit(func(c *wire.Command) { c.Devices = append(c.Devices, "q-"+other) }),
		"device twice":  edit(func(c *wire.Command) { c.Devices = append(c.Devices, device) }),
		"no reason":     edit(func(c *wire.Command) { c.Reason = " " }),
		"no expiry":     edit(func(c *wire.Command) { c.Expires = time.Time{} }),
		"backwards":     edit(func(c *wire.Command) { c.Expires = c.NotBefore }),
		"lives long":    edit(func(c *wire.Command) { c.Expires = c.NotBefore.Add(MaxLife + 1) }),
		"args array":    edit(func(c *wire.Command) { c.Args = json.RawMessage(`[1]`) }),
		"args null":     strings.Replace(good, `"verb"`, `"args":null,"verb"`, 1),
		"arg twice":     edit(func(c *wire.Command) { c.Args = json.RawMessage(`{"a":1,"a":2}`) }),
		"challenge":     edit(func(c *wire.Command) { c.Challenge = map[string][]byte{device: {1}} }),
		"its device":    edit(func(c *wire.Command) { c.Challenge = map[string][]byte{other: make([]byte, wire.NonceSize)} }),
	} {
		t.Run(name, func(t *testing.T) { wantRule(t, o, request(sign(t, []byte(text), "a")), RuleFormat) })
	}
}

func TestTooMuchIsRefusedBeforeItIsVerified(t *testing.T) {
	o := operators(t)
	env := sign(t, encode(t, command(VerbPing)), "a")
	many := env
	many.Signatures = slices.Repeat(env.Signatures, wire.MaxSignatures+1)
	wantRule(t, o, request(many), RuleFormat)
	env.Command = bytes.Repeat([]byte(" "), wire.MaxCommand+1)
	wantRule(t, o, request(env), RuleFormat)
}

// FuzzAuthorize: no signed bytes panic, and what is authorised names this device,
// this fleet and a granted verb.
func FuzzAuthorize(f *testing.F) {
	o := operators(f)
	f.Add(encode(f, command(VerbPing)))
	f.Fuzz(func(t *testing.T, data []byte) {
		cmd, people, err := o.Authorize(request(sign(t, data, "b")))
		if err != nil {
			return
		}
		if cmd.Fleet != fleet || !slices.Contains(cmd.Devices, device) || !slices.Equal(people, []string{"ben"}) || o.Verbs[cmd.Verb].Threshold != 1 {
			t.Errorf("authorised %+v by %v", cmd, people)
		}
	})
}
