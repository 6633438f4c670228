package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// answers says whether the local socket gives a status.
func answers(socket string) func(local.Status) error {
	return func(local.Status) error {
		_, err := local.Get(context.Background(), socket, false)
		return err
	}
}

func TestGarbageOnTheLocalSocketIsSurvived(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, build())
	socket := w.gateway.Settings.Socket
	r.await(t, answers(socket))
	noise := make([]byte, 1<<20)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(noise)
	for name, request := range map[string][]byte{
		"1 MB of noise":      noise,
		"half a request":     []byte("GET /v1/sta"),
		"endless header":     append([]byte("GET /v1/status HTTP/1.1\r\nX: "), bytes.Repeat([]byte("x"), 1<<20)...),
		"endless body":       append([]byte("POST /v1/attest HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000000000000000\r\n\r\n"), noise...),
		"another method":     []byte("DELETE /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"),
		"another path":       []byte("GET /v1/../../etc/shadow HTTP/1.1\r\nHost: a\r\n\r\n"),
		"smuggled length":    []byte("POST /v1/attest HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
		"thousand pipelined": bytes.Repeat([]byte("GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"), 1000),
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(request) // the agent may have hung up already
		if err := answers(socket)(local.Status{}); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
		conn.Close()
	}
}

func TestThousandConnectionsDoNotShutTheLocalSocket(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, build())
	socket := w.gateway.Settings.Socket
	r.await(t, answers(socket))
	for range 1000 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if err := answers(socket)(local.Status{}); err != nil {
		t.Error(err)
	}
}

func TestLocalSocketAnswersOnlyItsPaths(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, build())
	socket := w.gateway.Settings.Socket
	r.await(t, answers(socket))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	for path, want := range map[string]int{"/v1/status": 200, "/": 404, "/debug/pprof/": 404, "/v1/attest": 405} {
		resp, err := client.Get("http://agent" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, resp.Status, want)
		}
	}
}

// hostile lists messages that no fleet of ours sends, by kind.
func hostile(device string) map[wire.Kind][]string {
	verdict := func(v wire.Verdict) string {
		data, _ := json.Marshal(v)
		return string(data)
	}
	deep := strings.Repeat("[", 100_000)
	return map[wire.Kind][]string{
		wire.KindChallenge: {
			"", "null", "{", "\x00", deep, `{"nonce":"AA=="}`, `{"nonce":"` + strings.Repeat("A", 1<<20) + `"}`,
			`{"nonce":null,"event_log":"00"}`, `{"nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","nonce":"AA=="}`, `{"NONCE":"AA=="}`, `{"unknown":1}`,
		},
		wire.KindVerdict: {
			"", "null", "[]", deep, `{"v":1`, verdict(wire.Verdict{Version: 1, Device: "gw-bbbbbbbbbbbbbbbb", Grade: "untrusted", Gate: wire.GateQuarantine, Renew: true}),
			verdict(wire.Verdict{Version: 1, Grade: "untrusted", Renew: true}), `{"v":1,"device":"` + device + `","grade":"trusted","Grade":"untrusted"}`, `{"v":2,"device":"` + device + `","grade":"untrusted"}`,
		},
		wire.KindCommand: {"", "null", "{}", deep, `{"command":"AAAA","signatures":[]}`, `{"command":"bnVsbA==","signatures":["x"]}`, strings.Repeat("x", 1<<20)},
		"reply":          {"", "{}"},
		"":               {"{}"},
	}
}

func TestMalformedAndForeignMessagesChangeNothing(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	before := r.Status()
	for kind, payloads := range hostile(r.Device()) {
		for _, payload := range payloads {
			r.Receive(t.Context(), kind, []byte(payload))
		}
	}
	after := r.Status()
	if after.Verdict.Grade != before.Verdict.Grade || after.Verdict.Gate != before.Verdict.Gate || after.Certificate.Serial != before.Certificate.Serial {
		t.Errorf("verdict %+v, certificate %+v", after.Verdict, after.Certificate)
	}
	// And all goes on: the refusals of commands are acknowledged, and a verdict comes.
	began := time.Now()
	if err := r.Attest(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await(t, well(began))
}

func TestClockAt1970DelaysNothingAndWidensNothing(t *testing.T) {
	for name, now := range map[string]time.Time{"1970": time.Unix(0, 0), "in ten years": time.Now().AddDate(10, 0, 0)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b := build()
			b.Now, b.Synced = func() time.Time { return now }, func() bool { return false }
			s := w.enrolled(t, b).Status()
			if s.TimeTrusted {
				t.Error("the time is believed")
			}
			if s.Now.Before(b.Time) {
				t.Errorf("it is %v here, before the agent was built", s.Now)
			}
			if len(s.Health.Findings) == 0 {
				t.Error("no health findings")
			}
		})
	}
}

// TestHelperThatComesLateDelaysTheVerdictBySeconds: without socket activation it may
// start after the agent, which then has no logs for the first challenge.
func TestHelperThatComesLateDelaysTheVerdictBySeconds(t *testing.T) {
	w := newWorld(t)
	w.enrolled(t, build()).end(t)
	socket := w.gateway.Settings.Helper
	if err := os.Rename(socket, socket+".late"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := w.run(t, build())
	r.await(t, func(s local.Status) error {
		if !s.Link.Connected || r.Unable() == 0 {
			return errors.New("no challenge was missed yet")
		}
		return nil
	})
	if err := os.Rename(socket+".late", socket); err != nil {
		t.Fatal(err)
	}
	r.await(t, well(began))
}

// TestTPMWithPasswordsIsUsedLikeAnyOther: enrolled, trusted, its audit log anchored;
// without the passwords the agent does not start and names the credential.
func TestTPMWithPasswordsIsUsedLikeAnyOther(t *testing.T) {
	w := newWorld(t)
	auth := tpm.Auth{Owner: []byte("the owner's"), Endorsement: []byte("the endorsement's")}
	for hierarchy, secret := range map[tpm2.TPMHandle][]byte{tpm2.TPMRHOwner: auth.Owner, tpm2.TPMRHEndorsement: auth.Endorsement} {
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
			NewAuth:    tpm2.TPM2BAuth{Buffer: secret},
		}.Execute(w.power.Raw())
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := agent.New(t.Context(), w.gateway.Settings, build(), rig.Quiet())
	if !errors.Is(err, tpm.ErrPolicy) || !strings.Contains(err.Error(), "tpm-endorsement-auth") {
		t.Errorf("without passwords: %v", err)
	}
	w.gateway.Settings.TPMAuth = auth
	r := w.enrolled(t, build())
	if err := r.Anchor(t.Context()); err != nil {
		t.Errorf("anchor: %v", err)
	}
}

// TestExchangedTPMIsAnotherDevice: said in the audit log, and let in only after
// somebody approved it.
func TestExchangedTPMIsAnotherDevice(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	before := r.Device()
	r.end(t)
	_, other := tpmtest.Start(t)
	if _, err := rig.Measure(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	w.gateway.Settings.TPM = "unix:" + other.Socket
	for range 2 { // it is noticed once
		r = w.run(t, build())
		if r.Device() == before {
			t.Fatal("the same device id on another TPM")
		}
		if n := len(slices.DeleteFunc(r.Audit(100), func(name string) bool { return name != "identity.tpm-exchanged" })); n != 1 {
			t.Errorf("said %d times", n)
		}
		r.await(t, func(s local.Status) error {
			if !strings.Contains(s.Phase, "to approve "+r.Device()) {
				return fmt.Errorf("phase %q", s.Phase)
			}
			return nil
		})
		r.end(t)
	}
	began := time.Now()
	r = w.run(t, build())
	w.approve(t, r.Device())
	r.await(t, well(began))
}

// loseTPM takes the chip's power; nothing is attested without it.
func (w *world) loseTPM(t *testing.T, r *running) {
	t.Helper()
	if err := w.power.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := r.Attest(ctx); err == nil {
		t.Error("attested without a TPM")
	}
}

// TestTPMThatComesBackIsUsedAgain: the same agent, with the keys that it had.
func TestTPMThatComesBackIsUsedAgain(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	w.loseTPM(t, r)
	w.power = tpmtest.PowerOn(t, w.machine)
	if _, err := rig.Measure(t.Context(), w.power); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.await(t, func(s local.Status) error {
		return errors.Join(r.Attest(t.Context()), well(began)(s))
	})
}

// TestClearedTPMEndsTheAgentAndTheNextStartEnrolsAnew: the same device, which has to
// be approved again.
func TestClearedTPMEndsTheAgentAndTheNextStartEnrolsAnew(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	conn, err := net.Dial("unix", w.power.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lockout := tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.Clear{AuthHandle: lockout}).Execute(transport.FromReadWriter(conn)); err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Attest(t.Context()) }()
	select {
	case err := <-r.ended:
		if r.stop = nil; !errors.Is(err, tpm.ErrReplaced) {
			t.Fatalf("it ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on with keys of before")
	}
	device := r.Device()
	began := time.Now()
	again := w.run(t, build())
	if again.Device() != device {
		t.Fatalf("%s became %s", device, again.Device())
	}
	if names := again.Audit(20); !slices.Contains(names, "tpm.replaced") || !slices.Contains(names, "identity.ak-lost") {
		t.Errorf("audit log: %v", names)
	}
	w.approve(t, device)
	again.await(t, well(began))
}

func TestTPMThatIsGoneLeavesAnAgentThatSaysSo(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	w.loseTPM(t, r)
	if err := answers(w.gateway.Settings.Socket)(local.Status{}); err != nil {
		t.Errorf("status: %v", err)
	}
}

func TestFleetThatIsGoneIsWaitedForAndNothingIsLost(t *testing.T) {
	w := newWorld(t)
	r := w.enrolled(t, build())
	if err := w.fleet.Close(); err != nil {
		t.Fatal(err)
	}
	r.await(t, func(s local.Status) error {
		if s.Link.Connected || s.Link.LastError == "" {
			return errors.New("still connected")
		}
		return nil
	})
	r.end(t)
	r = w.run(t, build()) // says that it started, to nobody
	r.await(t, func(s local.Status) error {
		if s.Outbox.Pending == 0 {
			return fmt.Errorf("nothing waits: %+v", s.Outbox)
		}
		return nil
	})
	began := time.Now()
	if err := w.fleet.Start(); err != nil {
		t.Fatal(err)
	}
	if s := r.await(t, well(began)); s.Outbox.Dropped != 0 {
		t.Errorf("%d messages were dropped", s.Outbox.Dropped)
	}
}
