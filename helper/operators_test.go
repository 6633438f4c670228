package helper

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
)

const operatorsPath = "policy/operators.json"

// withdrawn is the installed document without anna, issued later.
func (m *slotted) withdrawn(after time.Duration) policy.Operators {
	o := operatorsDocument(m.t)
	o.Issued = o.Issued.Add(after)
	o.People = o.People[1:]
	o.Verbs = map[string]policy.Grant{policy.VerbReboot: {People: []string{"ben"}, Threshold: 1}}
	return o
}

// offerOperators has the role name a document, publishes it and returns its bytes.
func (m *slotted) offerOperators(role string, o policy.Operators) []byte {
	m.t.Helper()
	data, err := json.Marshal(o)
	m.must(err)
	m.repo.AddTarget(role, operatorsPath, data)
	m.publishOperators(role)
	return data
}

func (m *slotted) publishOperators(role string) {
	m.repo.Publish(role)
	if role != "targets" {
		m.repo.Publish("targets")
	}
	m.repo.Publish("snapshot", "timestamp")
}

// adopt hands the document to a helper that runs for it alone.
func (m *slotted) adopt(data []byte) error {
	m.t.Helper()
	c := m.run()
	defer m.halt()
	return c.Operators(context.WithoutCancel(m.t.Context()), data, m.repo.Metadata())
}

// wantOperators checks who may have it reboot, by a helper that starts anew.
func (m *slotted) wantOperators(id string, annaCounts bool) {
	m.t.Helper()
	signed, other := "b", "a"
	if annaCounts {
		signed, other = "ab", "b"
	}
	c := m.run()
	command := m.command()
	command.NotBefore, command.Expires = m.now.Add(-time.Minute), m.now.Add(time.Hour)
	command.ID = "0123456789-" + id + "-refused"
	var refusal *policy.Refusal
	if err := c.Reboot(m.t.Context(), m.machine.sign(command, other)); !errors.As(err, &refusal) {
		m.t.Errorf("signed by %q: %v, want a refusal", other, err)
	}
	command.ID = "0123456789-" + id + "-allowed"
	env := m.machine.sign(command, signed)
	m.must(c.Reboot(m.t.Context(), env))
	m.wantReboot()
	m.halt()
	c = m.run()
	err := c.Reboot(m.t.Context(), env)
	if !errors.As(err, &refusal) || refusal.Rule != "replayed" {
		m.t.Errorf("the same command again: %v", err)
	}
	m.wantNoReboot()
}

func TestOwnersOperatorsAreInForceInTheHelperAndStay(t *testing.T) {
	t.Parallel()
	m := newSlotted(t)
	m.wantOperators("before", true)
	data := m.offerOperators("targets", m.withdrawn(time.Hour))
	m.must(m.adopt(data))
	m.wantOperators("after", false)
	m.must(m.adopt(data)) // each start of the agent hands it over again
	m.wantOperators("again", false)
}

// What the owner took back, a thief of the repository brings again.
func TestOlderOperatorsAreRefusedByTheHelper(t *testing.T) {
	t.Parallel()
	m := newSlotted(t)
	older := m.offerOperators("targets", m.withdrawn(-time.Hour))
	m.wantRefused(m.adopt(older), "older") // than the installed ones
	m.must(m.adopt(m.offerOperators("targets", m.withdrawn(2*time.Hour))))
	between := operatorsDocument(t) // with anna
	between.Issued = between.Issued.Add(time.Hour)
	m.wantRefused(m.adopt(m.offerOperators("targets", between)), "older")
	m.wantOperators("older", false)
	for _, role := range []string{"targets", "snapshot", "timestamp"} { // the repository of before
		m.repo.Served[role] = m.repo.Served[role][:2]
	}
	m.wantRefused(m.adopt(older), "tuf/rollback")
	m.wantOperators("replayed", false)
}

func TestOperatorsThatTheOwnerDidNotSignAreRefusedByTheHelper(t *testing.T) {
	t.Parallel()
	m := newSlotted(t)
	m.repo.Delegate("targets", metadata.DelegatedRole{Name: "releases", Paths: []string{"releases/*/*/*"}})
	data := m.offerOperators("releases", m.withdrawn(time.Hour))
	m.wantRefused(m.adopt(data), "tuf/target") // the role speaks for releases alone
	m.repo.Delegate("targets", metadata.DelegatedRole{Name: "all", Paths: []string{"*/*"}})
	m.wantRefused(m.adopt(m.offerOperators("all", m.withdrawn(time.Hour))), "role")
	data = m.offerOperators("targets", m.withdrawn(time.Hour))
	m.wantRefused(m.adopt(append(data, ' ')), "tuf/length")
	altered := append([]byte{}, data...)
	altered[len(altered)/2] ^= 1
	m.wantRefused(m.adopt(altered), "tuf/hash")
	foreign := m.withdrawn(time.Hour)
	foreign.Fleet = "other"
	m.wantRefused(m.adopt(m.offerOperators("targets", foreign)), "fleet")
	m.repo.AddTarget("targets", operatorsPath, []byte("{}"))
	m.publishOperators("targets")
	m.wantRefused(m.adopt([]byte("{}")), policy.RuleFormat)
	m.wantOperators("attacks", true)
}

// What a stolen key dates far ahead blocks nothing for longer than its root.
func TestNewRootTakesBackOperatorsOfTheFuture(t *testing.T) {
	t.Parallel()
	m := newSlotted(t)
	future := m.withdrawn(0)
	future.Issued = m.repo.Root.Signed.Expires.Add(time.Second)
	m.wantRefused(m.adopt(m.offerOperators("targets", future)), "issued")
	future.Issued = m.repo.Root.Signed.Expires
	m.must(m.adopt(m.offerOperators("targets", future)))
	m.wantOperators("future", false)
	good := operatorsDocument(t)
	good.Issued = good.Issued.Add(time.Hour)
	m.wantRefused(m.adopt(m.offerOperators("targets", good)), "older")
	m.repo.Rotate("targets")
	m.repo.PublishAll()
	data, err := json.Marshal(good)
	m.must(err)
	m.must(m.adopt(data))
	m.wantOperators("back", true)
}

func TestDamagedOperatorsStopCommandsUntilTheyAreAdoptedAgain(t *testing.T) {
	t.Parallel()
	m := newSlotted(t)
	data := m.offerOperators("targets", m.withdrawn(time.Hour))
	m.must(m.adopt(data))
	m.must(os.WriteFile(filepath.Join(m.config.State, policy.OperatorsFile), []byte("{"), 0o600))
	command := m.command()
	command.NotBefore, command.Expires = m.now.Add(-time.Minute), m.now.Add(time.Hour)
	if err := m.run().Reboot(t.Context(), m.machine.sign(command, "ab")); err == nil {
		t.Error("it obeys somebody who may have been withdrawn")
	}
	m.wantNoReboot()
	m.must(m.adopt(data))
	m.wantOperators("mended", false)
}

// TestPowerCutWhileOperatorsAreAdopted: whatever step was the last, the old or the new
// document is in force, the ledger knows what ran, and the next try succeeds.
func TestPowerCutWhileOperatorsAreAdopted(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		m := newSlotted(t)
		m.wantOperators("before", true)
		data := m.offerOperators("targets", m.withdrawn(time.Hour))
		count := 0
		m.setFS(&fsx.FS{Hook: func(string, string) error {
			if count++; count >= n {
				return errors.New("the power is cut")
			}
			return nil
		}})
		whole := m.cutAdopt(data)
		m.setFS(&fsx.FS{})
		m.powerOn()
		if whole && count < n {
			if n < 10 {
				t.Fatalf("only %d steps are seen: the sweep is blind", n)
			}
			m.wantOperators("whole", false)
			return
		}
		m.must(m.adopt(data))
		m.wantOperators("after", false)
		os.RemoveAll(m.dir)
	}
}

// cutAdopt is adopt by a helper that may not even start.
func (m *slotted) cutAdopt(data []byte) (done bool) {
	c := m.start()
	if c == nil {
		return false
	}
	defer m.shut()
	return c.Operators(m.t.Context(), data, m.repo.Metadata()) == nil
}
