package helper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
)

func TestInfoIsDerivedNotTold(t *testing.T) {
	m := newMachine(t)
	info, err := m.run().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := wire.DeviceID(fleet, []byte("the name of the endorsement key"))
	if info.Device != want || info.Fleet != fleet || info.Software != "1.2.3" || len(info.Challenge) != wire.NonceSize {
		t.Errorf("info is %+v", info)
	}
	if !info.TimeFloor.Equal(start().AddDate(0, 0, -2)) {
		t.Errorf("floor is %v, want the fleet document's issued", info.TimeFloor)
	}
}

func TestSignedRebootRunsOnce(t *testing.T) {
	m := newMachine(t)
	c, env := m.run(), m.sign(m.command(), "ab")
	if err := c.Reboot(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	m.wantReboot()
	m.wantRefused(c.Reboot(t.Context(), env), "replayed")
	c = m.run() // after a restart
	m.wantRefused(c.Reboot(t.Context(), env), "replayed")
}

func TestHelperRefusesByItsOwnPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*wire.Command)
		letters string
		rule    string
	}{
		"unsigned":     {letters: "", rule: policy.RuleUnsigned},
		"one of two":   {letters: "a", rule: policy.RuleThreshold},
		"one twice":    {letters: "aa", rule: policy.RuleThreshold},
		"stranger":     {letters: "ax", rule: policy.RuleRole},
		"other device": {letters: "ab", rule: policy.RuleDevice, change: func(c *wire.Command) { c.Devices = []string{"gw-zzzzzzzz234567aa"} }},
		"other fleet":  {letters: "ab", rule: policy.RuleFleet, change: func(c *wire.Command) { c.Fleet = "acme-us" }},
		"other verb":   {letters: "ab", rule: "verb", change: func(c *wire.Command) { c.Verb = policy.VerbPing }},
		"expired":      {letters: "ab", rule: policy.RuleExpired, change: func(c *wire.Command) { c.Expires = start().Add(-time.Second) }},
		"not yet":      {letters: "ab", rule: policy.RuleNotYet, change: func(c *wire.Command) { c.NotBefore = start().Add(time.Second) }},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			cmd := m.command()
			if c.change != nil {
				c.change(&cmd)
			}
			client := m.run()
			m.wantRefused(client.Reboot(t.Context(), m.sign(cmd, c.letters)), c.rule)
		})
	}
}

func TestAlteredEnvelopeIsRefused(t *testing.T) {
	m := newMachine(t)
	env := m.sign(m.command(), "ab")
	env.Command[30] ^= 1
	c := m.run()
	m.wantRefused(c.Reboot(t.Context(), env), policy.RuleSignature)
}

func TestWithdrawnOperatorIsWithdrawnAtOnce(t *testing.T) {
	m := newMachine(t)
	c, env := m.run(), m.sign(m.command(), "ab")
	doc := operatorsDocument(t)
	doc.People, doc.Verbs = doc.People[:1], map[string]policy.Grant{policy.VerbPing: doc.Verbs[policy.VerbPing]}
	m.writeTrust(policy.OperatorsFile, doc)
	m.wantRefused(c.Reboot(t.Context(), env), policy.RuleRole)
}

// A clock that fell back to 1970 can't revive a command; the floor, which only
// signed documents raise, stands. The helper's own challenge lets one through.
func TestWrongClockNeverWidensTrust(t *testing.T) {
	m := newMachine(t)
	m.now, m.synced = time.Unix(0, 0), true
	c := m.run()
	cmd := m.command()
	cmd.NotBefore, cmd.Expires = time.Unix(0, 0), time.Unix(3600, 0)
	m.wantRefused(c.Reboot(t.Context(), m.sign(cmd, "ab")), policy.RuleExpired)

	m.synced = false
	c = m.run()
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd.Challenge = map[string][]byte{info.Device: info.Challenge}
	if err := c.Reboot(t.Context(), m.sign(cmd, "ab")); err != nil {
		t.Fatal(err)
	}
	m.wantReboot()
	m.halt()
	m.config.BootID = "boot-2"
	c = m.run()
	cmd.ID += "-2"
	m.wantRefused(c.Reboot(t.Context(), m.sign(cmd, "ab")), policy.RuleExpired) // that challenge was the last boot's
}

func TestChallengeLastsForTheBoot(t *testing.T) {
	m := newMachine(t)
	seen := make(map[string]bool)
	for _, boot := range []string{"one", "one", "two"} {
		m.config.BootID = boot
		info, err := m.run().Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen[string(info.Challenge)] = true
		m.halt()
	}
	if len(seen) != 2 {
		t.Errorf("%d challenges in two boots", len(seen))
	}
}

func TestTrustThatOthersCouldWriteIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(trust string) error{
		"folder": func(trust string) error { return os.Chmod(trust, 0o777) },
		"group":  func(trust string) error { return os.Chmod(filepath.Join(trust, policy.OperatorsFile), 0o664) },
		"link": func(trust string) error {
			at := filepath.Join(trust, policy.OperatorsFile)
			return errors.Join(os.Rename(at, at+".real"), os.Symlink(at+".real", at))
		},
		"owner": func(trust string) error {
			if os.Geteuid() != 0 {
				return os.Chmod(trust, 0o777) // can't give files away; at least refuse this
			}
			return os.Chown(filepath.Join(trust, policy.OperatorsFile), 12345, -1)
		},
		"absent": func(trust string) error { return os.Remove(filepath.Join(trust, policy.OperatorsFile)) },
		"damaged": func(trust string) error {
			return os.WriteFile(filepath.Join(trust, policy.OperatorsFile), []byte("{"), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			if err := spoil(m.config.Trust); err != nil {
				t.Fatal(err)
			}
			c := m.run()
			if err := c.Reboot(t.Context(), m.sign(m.command(), "ab")); err == nil {
				t.Error("it was done")
			} else {
				t.Log(err)
			}
			m.wantNoReboot()
		})
	}
}

func TestDamagedLedgerStopsCommandsOnly(t *testing.T) {
	m := newMachine(t)
	if err := os.MkdirAll(m.config.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.config.statePath("commands.ledger"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := m.run()
	if _, err := c.Info(t.Context()); err != nil {
		t.Error(err)
	}
	m.wantRefused(c.Reboot(t.Context(), m.sign(m.command(), "ab")), "state")
}

// The state folder's disk fails at any op of a reboot: it never runs unrecorded.
func TestRebootIsRecordedFirst(t *testing.T) {
	for _, op := range []string{"create", "write", "sync"} {
		m := newMachine(t)
		c := m.run()
		if _, err := c.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.halt()
		m.config.FS.Hook = func(o, path string) error {
			if o == op && strings.HasSuffix(path, ".ledger") {
				return errors.New("no space left on device")
			}
			return nil
		}
		c = m.run()
		if err := c.Reboot(t.Context(), m.sign(m.command(), "ab")); err == nil {
			t.Errorf("%s: accepted", op)
		}
		m.wantNoReboot()
	}
}

func TestLogsArriveAsOpenFiles(t *testing.T) {
	m := newMachine(t)
	m.config.EventLog, m.config.IMALog = filepath.Join(m.dir, "event"), filepath.Join(m.dir, "ima")
	want := bytes.Repeat([]byte("event log "), 100_000)
	for path, data := range map[string][]byte{m.config.EventLog: want, m.config.IMALog: []byte("ima")} {
		if err := os.WriteFile(path, data, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	c := m.run()
	event, ima, err := c.Logs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer event.Close()
	defer ima.Close()
	got, err1 := io.ReadAll(event)
	list, err2 := io.ReadAll(ima)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(got, want) || string(list) != "ima" {
		t.Errorf("read %d bytes and %q, %v", len(got), list, err)
	}
	if _, err := event.Write([]byte("x")); err == nil {
		t.Error("the event log may be written")
	}
}

func TestMachineWithoutLogsSaysSo(t *testing.T) {
	m := newMachine(t)
	m.config.IMALog = filepath.Join(m.dir, "absent")
	event, ima, err := m.run().Logs(t.Context())
	if err != nil || event != nil || ima != nil {
		t.Errorf("%v, %v, %v", event, ima, err)
	}
}

func TestLogThatIsALinkOrPipeIsNotOpened(t *testing.T) {
	m := newMachine(t)
	m.config.EventLog = filepath.Join(m.dir, "link")
	if err := os.Symlink("/etc/passwd", m.config.EventLog); err != nil {
		t.Fatal(err)
	}
	if event, _, err := m.run().Logs(t.Context()); err == nil {
		event.Close()
		t.Error("a planted link was opened as root")
	}
}

func TestTPMFailureIsOneSentence(t *testing.T) {
	m := newMachine(t)
	m.config.EKName = func(context.Context) ([]byte, error) { return nil, errors.New("no TPM at /dev/tpmrm0") }
	_, err := m.run().Info(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no TPM at /dev/tpmrm0") {
		t.Errorf("error is %v", err)
	}
}

func TestHelperExitsWhenIdle(t *testing.T) {
	m := newMachine(t)
	m.config.Idle = 50 * time.Millisecond
	c := m.run()
	for { // a machine that stalls is idle too
		_, err := c.Info(t.Context())
		if err == nil {
			break
		}
		if m.config.Idle *= 2; m.config.Idle > patience {
			t.Fatal(err)
		}
		m.halt()
		c = m.run()
	}
	select {
	case err := <-m.ended:
		m.ended = nil
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it does not exit")
	}
	if _, err := c.Info(t.Context()); err == nil || !strings.Contains(err.Error(), "gatewarden-helper.socket") {
		t.Errorf("error without a helper is %v, want one with a hint", err)
	}
}

func TestIncompleteConfigurationIsRefused(t *testing.T) {
	if err := Run(t.Context(), Config{}); err == nil {
		t.Error("ran with an empty Config")
	}
}

func TestListenReplacesDeadSocketOnly(t *testing.T) {
	m := newMachine(t)
	m.run()
	path := filepath.Join(m.dir, "helper.sock")
	if _, err := Listen(path, os.Geteuid()); err == nil {
		t.Error("took a live helper's socket")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket is %v, %v", info, err)
	}
	file := filepath.Join(m.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, os.Geteuid()); err == nil {
		t.Error("replaced a file")
	}
	if _, err := Listen("/"+strings.Repeat("x", 200), 0); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxSocketPath)) {
		t.Errorf("error for a long path is %v", err)
	}
	dead, err := Listen(filepath.Join(m.dir, "dead.sock"), os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	again, err := Listen(filepath.Join(m.dir, "dead.sock"), os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
