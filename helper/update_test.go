package helper

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/helperwire"
)

func TestReleaseIsInstalledTriedAndCommitted(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	o.Epoch = 2
	o.images["boot"] = []byte("a kernel")
	m.publish(o)
	c := m.run()
	sent, err := m.install(c, o)
	m.must(err)
	if sent != 5 { // four that differ, and the kernel
		t.Errorf("%d chunks were sent, want 5: those that the running slot holds are not", sent)
	}
	m.wantSlot("b", o.images["rootfs"])
	m.wantSlot("a", content(1))
	m.must(c.Try(t.Context(), "1.1.0"))
	m.wantReboot()
	m.wantBoot("b")
	c = m.run()
	slots, err := c.Slots(t.Context())
	m.must(err)
	if slots.Running != "b" || !slots.Trial || slots.Version != "1.1.0" || slots.Epoch != 1 || slots.Slots["b"].State != helperwire.SlotTrying {
		t.Errorf("on trial: %+v", slots)
	}
	m.must(c.Commit(t.Context(), "1.1.0"))
	m.must(c.Commit(t.Context(), "1.1.0")) // may be repeated
	m.wantBoot("b")
	c = m.run()
	slots, err = c.Slots(t.Context())
	m.must(err)
	if slots.Running != "b" || slots.Trial || slots.Version != "1.1.0" || slots.Epoch != 2 || slots.Counter != "none" ||
		slots.Slots["a"] != (helperwire.Slot{State: helperwire.SlotGood, Release: "1.0.0", Epoch: 1}) {
		t.Errorf("committed: %+v", slots)
	}
	// And the next one goes into the other slot.
	next := newOffer("1.2.0", content(3))
	next.Epoch = 2
	m.publish(next)
	_, err = m.install(c, next)
	m.must(err)
	m.wantSlot("a", next.images["rootfs"])
}

func TestTrialThatIsNotCommittedEndsWithTheNextBoot(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	c := m.run()
	_, err := m.install(c, o)
	m.must(err)
	m.must(c.Try(t.Context(), "1.1.0"))
	m.wantBoot("b")
	m.wantBoot("a")
	c = m.run()
	m.wantCommitRefused(c, "1.1.0", "release")
	slots, err := c.Slots(t.Context())
	m.must(err)
	if slots.Version != "1.0.0" || slots.Slots["b"].State != helperwire.SlotTrying {
		t.Errorf("after the fall-back: %+v", slots)
	}
}

func (m *slotted) wantCommitRefused(c *client.Client, version, rule string) {
	m.t.Helper()
	for len(m.boots) > 0 { // earlier ones
		<-m.boots
	}
	m.wantRule(c.Commit(m.t.Context(), version), rule)
}

func TestRollbackRebootsIntoTheDefault(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	c := m.run()
	m.wantRule(c.Rollback(t.Context()), "trial") // nothing to give up
	_, err := m.install(c, o)
	m.must(err)
	m.must(c.Try(t.Context(), "1.1.0"))
	m.wantReboot()
	m.wantBoot("b")
	c = m.run()
	m.must(c.Rollback(t.Context()))
	m.wantReboot()
	m.wantCommitRefused(c, "1.1.0", "trial") // it was given up
	m.wantBoot("a")
	c = m.run()
	m.wantRule(c.Try(t.Context(), "1.1.0"), "incomplete")
	// It may be installed again; nothing has to be sent for that.
	sent, err := m.install(c, o)
	m.must(err)
	if sent != 0 {
		t.Errorf("%d chunks were sent again", sent)
	}
	m.must(c.Try(t.Context(), "1.1.0"))
}

func TestArmedReleaseCanBeGivenUpWithoutReboot(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	c := m.run()
	_, err := m.install(c, o)
	m.must(err)
	m.must(m.config.Updates.Loader.TryNext("b"))
	m.must(c.Rollback(t.Context()))
	m.wantBoot("a")
	if len(m.boots) > 0 {
		t.Error("it rebooted")
	}
}

// A new session over an armed slot disarms it first: nobody boots what is being
// written.
func TestSlotThatIsWrittenIsNotBooted(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	c := m.run()
	_, err := m.install(c, o)
	m.must(err)
	m.must(m.config.Updates.Loader.TryNext("b"))
	i, err := c.Install(t.Context(), o.path, m.repo.Metadata())
	m.must(err)
	defer i.Close()
	m.wantRule(c.Try(t.Context(), "1.1.0"), "incomplete")
	m.wantBoot("a")
}

func TestCommitNeedsATrialOfAWholeRelease(t *testing.T) {
	m := newSlotted(t)
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	c := m.run()
	m.wantRule(c.Commit(t.Context(), "1.1.0"), "release")
	_, err := m.install(c, o)
	m.must(err)
	m.wantRule(c.Commit(t.Context(), "1.1.0"), "release") // it waits in the other slot
	i, err := c.Install(t.Context(), o.path, m.repo.Metadata())
	m.must(err)
	i.Close()
	// Somebody boots the slot that is half written.
	m.must(m.config.Updates.Loader.TryNext("b"))
	m.wantBoot("b")
	c = m.run()
	m.wantRule(c.Commit(t.Context(), "1.1.0"), "trial")
}

func TestWayBackIsNotOverwrittenDuringTheTrial(t *testing.T) {
	m := newSlotted(t)
	o, next := newOffer("1.1.0", content(2)), newOffer("1.2.0", content(3))
	m.publish(o)
	m.publish(next)
	c := m.run()
	_, err := m.install(c, o)
	m.must(err)
	m.must(c.Try(t.Context(), "1.1.0"))
	m.wantReboot()
	m.wantBoot("b")
	_, err = m.install(m.run(), next)
	m.wantRule(err, "trial")
	m.wantSlot("a", content(1))
}

func TestInstallGoesOnWhereItWasCutOff(t *testing.T) {
	m := newSlotted(t)
	data := content(2)
	o := newOffer("1.1.0", data)
	m.publish(o)
	c := m.run()
	i, err := c.Install(t.Context(), o.path, m.repo.Metadata())
	m.must(err)
	index := indexOf(t, data)
	m.must(i.Index(t.Context(), "rootfs", index.Encode()))
	missing, err := i.Seed(t.Context(), nil, nil)
	m.must(err)
	if len(missing) != index.Len() {
		t.Errorf("%d of %d chunks are missing in an empty slot", len(missing), index.Len())
	}
	for _, n := range missing[:7] {
		m.must(i.Chunk(t.Context(), n, piece(index, data, n)))
	}
	i.Close()
	m.wantBoot("a")
	i, err = m.run().Install(t.Context(), o.path, m.repo.Metadata())
	m.must(err)
	defer i.Close()
	m.must(i.Index(t.Context(), "rootfs", index.Encode()))
	missing, err = i.Seed(t.Context(), nil, nil)
	m.must(err)
	if len(missing) != index.Len()-7 || missing[0] != 7 {
		t.Errorf("%v are missing after 7 of %d chunks", missing, index.Len())
	}
}

// Metadata is persisted by the helper alone, and only once it was verified: what
// it saw can't be taken back.
func TestRolledBackMetadataIsRefusedAfterRestart(t *testing.T) {
	m := newSlotted(t)
	old := newOffer("1.1.0", content(2))
	m.publish(old)
	stale := len(m.repo.Served["timestamp"])
	next := newOffer("1.2.0", content(3))
	m.publish(next)
	c := m.run()
	_, err := m.install(c, next)
	m.must(err)
	m.wantBoot("a")
	m.repo.Served["timestamp"] = m.repo.Served["timestamp"][:stale]
	_, err = m.install(m.run(), old)
	m.wantRule(err, "tuf/rollback")
}

func TestRotatedRootIsFollowedByItself(t *testing.T) {
	m := newSlotted(t)
	for range 3 {
		old := m.repo.Signers["root"]
		m.repo.Rotate("root")
		m.repo.Signers["root"] = append(m.repo.Signers["root"], old...)
		m.repo.Publish("root")
	}
	m.repo.Rotate("targets")
	m.repo.Publish("root")
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	_, err := m.install(m.run(), o)
	m.must(err)
}

func TestDelegatedRoleMaySignReleases(t *testing.T) {
	m := newSlotted(t)
	m.repo.Delegate("targets", metadata.DelegatedRole{Name: "releases", Paths: []string{"releases/*/*/*"}})
	o := newOffer("1.1.0", content(2))
	m.publish(o)
	for _, path := range []string{o.path} {
		m.repo.Targets["releases"].Signed.Targets[path] = m.target(path)
		delete(m.repo.Targets["targets"].Signed.Targets, path)
	}
	m.repo.Publish("targets", "releases", "snapshot", "timestamp")
	_, err := m.install(m.run(), o)
	m.must(err)
}

// counter is a TPM counter that can fail.
type fakeCounter struct {
	epoch uint64
	err   error
}

func (c *fakeCounter) Epoch(context.Context) (uint64, []byte, error) {
	return c.epoch, []byte("{}"), c.err
}

func (c *fakeCounter) Raise(_ context.Context, epoch uint64) error {
	c.epoch = max(c.epoch, epoch)
	return c.err
}

func TestCounterHoldsTheEpochWhereRecordsWereErased(t *testing.T) {
	m := newSlotted(t)
	counter := &fakeCounter{epoch: 1}
	m.config.Updates.Counter = counter
	o := newOffer("1.1.0", content(2))
	o.Epoch = 5
	m.publish(o)
	c := m.run()
	_, err := m.install(c, o)
	m.must(err)
	m.must(c.Try(t.Context(), "1.1.0"))
	m.wantReboot()
	m.wantBoot("b")
	if counter.epoch != 1 {
		t.Error("the counter was raised before the commit")
	}
	c = m.run()
	m.must(c.Commit(t.Context(), "1.1.0"))
	if counter.epoch != 5 {
		t.Errorf("the counter shows %d after the commit", counter.epoch)
	}
	m.halt()
	m.must(os.RemoveAll(m.config.State))
	old := newOffer("1.3.0", content(3))
	old.Epoch = 4
	m.publish(old)
	_, err = m.install(m.run(), old)
	m.wantRule(err, "epoch")
}

func TestCounterThatIsGoneIsAnAlarmAndLowersNothing(t *testing.T) {
	m := newSlotted(t)
	m.config.Updates.Counter = &fakeCounter{err: errors.New("index 0x1800001 is missing")}
	m.must(os.MkdirAll(m.config.State, 0o700))
	m.must(m.config.FS.WriteJSON(m.config.statePath(epochFile), epochRecord{Format: 1, Epoch: 3, Release: "1.0.0"}, 0o600))
	o := newOffer("1.1.0", content(2))
	o.Epoch = 2
	m.publish(o)
	c := m.run()
	_, err := m.install(c, o)
	m.wantRule(err, "epoch")
	slots, err := c.Slots(t.Context())
	m.must(err)
	if slots.Counter != "index 0x1800001 is missing" || slots.Epoch != 3 {
		t.Errorf("slots say %+v", slots)
	}
	// An upgrade goes on: nothing is gained by staying with the old release.
	next := newOffer("1.2.0", content(3))
	next.Epoch = 4
	m.publish(next)
	_, err = m.install(c, next)
	m.must(err)
	m.must(c.Try(t.Context(), "1.2.0"))
	m.wantReboot()
	m.wantBoot("b")
	m.must(m.run().Commit(t.Context(), "1.2.0"))
}

// Each record is rebuilt from the other, so that damage to one lowers nothing.
func TestDamagedRecordIsRebuiltFromTheOther(t *testing.T) {
	for _, name := range []string{slotsFile, epochFile} {
		for _, damage := range []string{"", "{", `{"v":1,"unknown":true}`} {
			m := newSlotted(t)
			o := newOffer("1.1.0", content(2))
			o.Epoch = 4
			m.publish(o)
			c := m.run()
			_, err := m.install(c, o)
			m.must(err)
			m.must(c.Try(t.Context(), "1.1.0"))
			m.wantBoot("b")
			c = m.run()
			m.must(c.Commit(t.Context(), "1.1.0"))
			m.halt()
			m.must(os.WriteFile(m.config.statePath(name), []byte(damage), 0o600))
			slots, err := m.run().Slots(t.Context())
			m.must(err)
			if slots.Version != "1.1.0" || slots.Epoch != 4 {
				t.Errorf("%s is %q: %+v", name, damage, slots)
			}
			m.halt()
		}
	}
}

func TestMachineWithoutSlotsRefusesUpdatesOnly(t *testing.T) {
	m := newSlotted(t)
	m.config.Updates = nil
	c := m.run()
	_, err := c.Slots(t.Context())
	m.wantRule(err, "no-update")
	_, err = c.Install(t.Context(), "releases/gw/stable/1.1.0.json", m.repo.Metadata())
	m.wantRule(err, "no-update")
	m.wantRule(c.Try(t.Context(), "1.1.0"), "no-update")
	m.wantRule(c.Commit(t.Context(), "1.1.0"), "no-update")
	m.wantRule(c.Rollback(t.Context()), "no-update")
	if _, err := c.Info(t.Context()); err != nil {
		t.Error(err)
	}
}
