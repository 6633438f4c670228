package ear

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/fsx"
)

// bench is an issuer whose time the test sets.
type bench struct {
	*testing.T
	*Issuer
	now time.Time
}

func newBench(t *testing.T, now time.Time) *bench {
	t.Helper()
	b := &bench{T: t, now: now}
	keys, err := OpenKeys(&fsx.FS{}, t.TempDir(), now)
	b.must(err)
	b.Issuer, err = New(Config{Keys: keys, Fleet: "meadow", Build: "1.2.3", Now: func() time.Time { return b.now }})
	b.must(err)
	return b
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// rulesWith are the results of all rules, of which some failed with what they cost.
func rulesWith(failed map[string]attest.Grade) []attest.RuleResult {
	var rules []attest.RuleResult
	for _, name := range attest.RuleNames() {
		effect, bad := failed[name]
		rules = append(rules, attest.RuleResult{Rule: name, OK: !bad, Effect: effect})
	}
	return rules
}

func (b *bench) appraisal() Appraisal {
	return Appraisal{
		Device: "gw-abcdefghijklmnop", At: b.now, Grade: attest.Trusted, Rules: rulesWith(nil), Release: "gateway 1.0.0",
		Claims: attest.Claims{Keys: []string{strings.Repeat("5a", 32)}, Software: "1.0.0", Slot: "a"}, Nonce: bytes.Repeat([]byte{7}, 32),
		Policy: "sha256:" + strings.Repeat("ab", 32), Genuine: true,
	}
}

// verify has PyJWT, which is not ours, read a token by the published keys.
func (b *bench) verify(token string) (map[string]any, error) {
	b.Helper()
	const python, script = "/usr/bin/python3", `
import json, sys, jwt
given = json.load(sys.stdin)
kid = jwt.get_unverified_header(given["token"])["kid"]
key = [k for k in jwt.PyJWKSet.from_dict(given["jwks"]).keys if k.key_id == kid][0]
print(json.dumps(jwt.decode(given["token"], key.key, algorithms=["ES256"], issuer="urn:gatewarden:meadow", options={"require": ["exp", "iat", "iss", "sub"]})))
`
	if exec.Command(python, "-c", "import jwt, cryptography").Run() != nil {
		b.Skip("this test needs python3-jwt and python3-cryptography")
	}
	set, err := b.Keys.Set()
	b.must(err)
	input, err := json.Marshal(map[string]any{"token": token, "jwks": json.RawMessage(set)})
	b.must(err)
	cmd := exec.CommandContext(b.Context(), python, "-c", script)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, errors.New(string(out))
	}
	var claims map[string]any
	b.must(json.Unmarshal(out, &claims))
	return claims, nil
}

// TestAnotherLibraryVerifiesAResultByThePublishedKeys, and refuses one that was
// altered, is old, or was signed by a key that is not published.
func TestAnotherLibraryVerifiesAResultByThePublishedKeys(t *testing.T) {
	b := newBench(t, time.Now().Truncate(time.Second))
	token, err := b.Issue(b.appraisal(), "bm9uY2Utb2YtYS1yZWFkZXI")
	b.must(err)
	claims, err := b.verify(token)
	b.must(err)
	at := float64(b.now.Unix())
	want := map[string]any{
		"eat_profile": "tag:ietf.org,2026:rats/ear#04", "iss": "urn:gatewarden:meadow", "sub": "gw-abcdefghijklmnop", "iat": at, "exp": at + 600,
		"ear_status": "affirming", "ear_verifier_id": map[string]any{"developer": "Gatewarden", "build": "gatewarden-fleet 1.2.3"}, "eat_nonce": "bm9uY2Utb2YtYS1yZWFkZXI",
		"submods": map[string]any{"gateway": map[string]any{
			"ear_status": "affirming", "ear_trustworthiness_vector": map[string]any{"instance-identity": 2.0, "executables": 3.0, "configuration": 2.0, "hardware": 2.0},
			"ear_appraisal_policy_ids": []any{"urn:gatewarden:meadow:policy:sha256:" + strings.Repeat("ab", 32)}, "eat_nonce": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
			"ear_attester_claims": map[string]any{"keys": []any{strings.Repeat("5a", 32)}, "software": "1.0.0", "slot": "a"},
			"ear_verifier_claims": map[string]any{"release": "gateway 1.0.0"},
		}},
	}
	got, err := json.MarshalIndent(claims, "", " ")
	b.must(err)
	wanted, err := json.MarshalIndent(want, "", " ")
	b.must(err)
	if !bytes.Equal(got, wanted) {
		t.Errorf("claims\n%s\nwant\n%s", got, wanted)
	}
	header, rest, _ := strings.Cut(token, ".")
	body, signature, _ := strings.Cut(rest, ".")
	bad := b.appraisal()
	bad.Grade = attest.Untrusted
	other, err := b.Issue(bad, "")
	b.must(err)
	otherBody := strings.Split(other, ".")[1]
	old := b.appraisal()
	old.At = b.now.Add(-Life - time.Minute)
	b.now = old.At
	expired, err := b.Issue(old, "")
	b.must(err)
	stranger, err := newBench(t, time.Now()).Issue(bad, "")
	b.must(err)
	for name, forged := range map[string]string{
		"another body": header + "." + otherBody + "." + signature, "no signature": header + "." + body + ".", "expired": expired, "a key of somebody else": stranger,
	} {
		if _, err := b.verify(forged); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

func TestResultEndsWithTheAppraisalWheneverItWasAskedFor(t *testing.T) {
	b := newBench(t, time.Unix(1_800_000_000, 0))
	a := b.appraisal()
	b.now = a.At.Add(Life - time.Second)
	if _, err := b.Issue(a, ""); err != nil {
		t.Error(err)
	}
	for _, at := range []time.Time{a.At.Add(Life), a.At.AddDate(-1, 0, 0)} { // too late; or the clock was ahead
		b.now = at
		if _, err := b.Issue(a, ""); !errors.Is(err, ErrOld) {
			t.Errorf("at %s: %v", at, err)
		}
	}
}

// TestVectorClaimsNoMoreThanTheRulesFound: tiers are affirming below 32, warning below
// 96, contraindicated from there on.
func TestVectorClaimsNoMoreThanTheRulesFound(t *testing.T) {
	const none = -1
	for name, c := range map[string]struct {
		failed                           map[string]attest.Grade
		genuine                          bool
		executables, configuration, hard int
	}{
		"all held":                        {nil, true, 3, 2, 2},
		"EK that nobody vouches for":      {nil, false, 3, 2, none},
		"Secure Boot off, only noted":     {map[string]attest.Grade{"secure-boot": attest.Trusted}, true, 3, 3, 2},
		"Secure Boot off, degrades":       {map[string]attest.Grade{"secure-boot": attest.Degraded}, true, 3, 32, 2},
		"a stranger's Secure Boot key":    {map[string]attest.Grade{"secure-boot-keys": attest.Untrusted}, true, 3, 32, 2},
		"altered command line":            {map[string]attest.Grade{"command-line": attest.Untrusted}, true, 3, 96, 2},
		"excepted command line":           {map[string]attest.Grade{"command-line": attest.Trusted}, true, 3, 3, 2},
		"another image":                   {map[string]attest.Grade{"boot-application": attest.Untrusted}, true, 96, 2, 2},
		"another image, only degrades":    {map[string]attest.Grade{"boot-application": attest.Degraded}, true, 33, 2, 2},
		"log that is false":               {map[string]attest.Grade{"pcr-replay": attest.Untrusted}, true, 99, 2, 2},
		"unknown firmware":                {map[string]attest.Grade{"firmware": attest.Degraded}, true, 3, 2, none},
		"unknown firmware, excepted":      {map[string]attest.Grade{"firmware": attest.Trusted}, true, 3, 2, none},
		"firmware that reports a fault":   {map[string]attest.Grade{"firmware-state": attest.Degraded}, true, 3, 2, 32},
		"older copy of the chip's memory": {map[string]attest.Grade{"clock": attest.Untrusted}, true, 96, 2, 2},
	} {
		v := vectorOf(Appraisal{Rules: rulesWith(c.failed), Genuine: c.genuine})
		hard, ok := v["hardware"]
		if !ok {
			hard = none
		}
		if v["executables"] != c.executables || v["configuration"] != c.configuration || hard != c.hard || v["instance-identity"] != 2 {
			t.Errorf("%s: %v", name, v)
		}
	}
	if v := vectorOf(Appraisal{Rules: rulesWith(nil), Files: true}); v["executables"] != 2 {
		t.Errorf("files that were all allowed: %v", v)
	}
	if v := vectorOf(Appraisal{Rules: rulesWith(map[string]attest.Grade{"ima": attest.Trusted}), Files: true}); v["executables"] != 3 {
		t.Errorf("files of which some were excepted: %v", v)
	}
	if v := vectorOf(Appraisal{}); v["executables"] < 96 || v["configuration"] < 96 {
		t.Errorf("rules that were not asked: %v", v)
	}
}

// TestKeysFollowEachOtherWithOverlap: whoever fetches the set once a day always knows
// the key that signs, and every token that still counts.
func TestKeysFollowEachOtherWithOverlap(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	dir := t.TempDir()
	keys, err := OpenKeys(&fsx.FS{}, dir, start)
	if err != nil {
		t.Fatal(err)
	}
	published := map[string]time.Time{} // by key, since when
	signed := map[string]time.Time{}    // by key, until when
	for hour := range 24 * 400 / 2 {
		hour *= 2
		now := start.Add(time.Duration(hour) * time.Hour)
		if hour%100 == 0 { // and across restarts
			if keys, err = OpenKeys(&fsx.FS{}, dir, now); err != nil {
				t.Fatal(err)
			}
		} else if err := keys.Rotate(now); err != nil {
			t.Fatal(err)
		}
		here := map[string]bool{}
		for _, k := range keys.keys {
			here[k.ID] = true
			if _, ok := published[k.ID]; !ok {
				published[k.ID] = now
			}
		}
		signer := keys.signing(now).ID
		if len(published) > 1 && now.Sub(published[signer]) < overlap && published[signer] != start {
			t.Fatalf("after %d hours a key signs that was published %v ago", hour, now.Sub(published[signer]))
		}
		signed[signer] = now
		for id, last := range signed {
			if now.Sub(last) < Life+overlap/2 && !here[id] {
				t.Fatalf("after %d hours a key is gone that signed %v ago", hour, now.Sub(last))
			}
		}
		if len(keys.keys) > 2 {
			t.Fatalf("after %d hours %d keys are published", hour, len(keys.keys))
		}
	}
	if len(signed) < 4 {
		t.Errorf("only %d keys signed in 400 days", len(signed))
	}
}
