package agent_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// TestChallengesWithoutEndDoNotKeepTheChipBusy: they are unsigned, so whoever holds
// the broker can send as many as he likes.
func TestChallengesWithoutEndDoNotKeepTheChipBusy(t *testing.T) {
	w := newWorld(t)
	tap, err := rig.NewTap(filepath.Join(shortDir(t), "tap"), w.power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	w.gateway.Settings.TPM = "unix:" + tap.Socket
	r := w.enrolled(t, build())
	const span = 4 * time.Second
	tap.Take()
	sent, quotes, began := 0, 0, time.Now()
	for quotes == 0 && time.Since(began) < patience { // again if the machine stalled all the time
		sent += challengeFor(t, r, span)
		for _, code := range tap.Take() {
			if code == tpm2.TPMCCQuote {
				quotes++
			}
		}
	}
	took := time.Since(began)
	if quotes < 1 || quotes > 1+int(took/(3*time.Second)) {
		t.Errorf("%d challenges in %v cost %d quotes, want one in 3 s", sent, took, quotes)
	}
}

// challengeFor challenges r all the time, and says how often.
func challengeFor(t *testing.T, r *running, span time.Duration) (sent int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	for ; ctx.Err() == nil; sent++ {
		c := wire.Challenge{Nonce: make([]byte, wire.NonceSize), Expires: time.Now().Add(time.Minute).UTC()}
		if _, err := rand.Read(c.Nonce); err != nil {
			t.Fatal(err)
		}
		payload, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		r.Receive(ctx, wire.KindChallenge, payload)
	}
	return sent
}

// TestWhatADeviceSaysIsConfirmedByItsNextQuote: health, audit log and all that a
// broker carried unsigned.
func TestWhatADeviceSaysIsConfirmedByItsNextQuote(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	if err := r.Attest(t.Context()); err != nil {
		t.Fatal(err)
	}
	store := w.fleet.Server.Store()
	last, err := store.LastVerdict(t.Context(), r.Device())
	if err != nil {
		t.Fatal(err)
	}
	health, err := store.Health(t.Context(), r.Device())
	if err != nil {
		t.Fatal(err)
	}
	if s := verifier.StandingOf(health, last); s != verifier.Confirmed {
		t.Errorf("health report: %s", s)
	}
	events, err := store.Events(t.Context(), r.Device(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	own := 0
	for _, e := range events {
		if e.Proof == registry.ProofQuoted {
			own++
		} else if e.Proof != registry.ProofNone {
			t.Errorf("%s: %s is %s", e.Kind, e.Text, e.Proof)
		}
	}
	if own < 2 { // started, renewed
		t.Errorf("%d events of the gateway's audit log are proven", own)
	}
}

// TestHealthReportSaysTheVerdictInTheFleetsWords, once more after each verdict.
func TestHealthReportSaysTheVerdictInTheFleetsWords(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	store := w.fleet.Server.Store()
	last, err := store.LastVerdict(t.Context(), r.Device())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = rig.Await(ctx, "report with the verdict", func() error {
		message, err := store.Health(t.Context(), r.Device())
		if err != nil {
			return err
		}
		var health wire.Health
		if err := json.Unmarshal(message.Body, &health); err != nil {
			return err
		}
		if health.Verdict == "" || health.Verdict != last.Explanation[0] {
			return fmt.Errorf("the report says %q, the verdict %q", health.Verdict, last.Explanation[0])
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestResultForOthersComesWithTheVerdict, signed by a key that the fleet publishes to
// everybody.
func TestResultForOthersComesWithTheVerdict(t *testing.T) {
	w := newWorld(t)
	token := w.enrolled(t, build()).Status().Verdict.Result
	header, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(w.fleet.Trust(), policy.FleetFile))
	if err != nil {
		t.Fatal(err)
	}
	anchors, err := policy.ParseFleet(raw)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(anchors.Anchors[0]))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	resp, err := client.Get(w.fleet.Settings.Public.API[0] + "/v1/results/jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var set struct{ Keys []struct{ Kid string } }
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("%s: %+v, %v", resp.Status, set, err)
	}
	if want := `{"alg":"ES256","kid":"` + set.Keys[0].Kid + `","typ":"eat+jwt"}`; string(header) != want {
		t.Errorf("header %s, want %s", header, want)
	}
}
