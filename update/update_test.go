package update

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
)

func TestGoodReleaseIsInstalledAndReported(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	u := m.wantOutcome(wire.UpdateInstalled, "", "2.0.0")
	if u.From != "1.0.0" || u.Release != "2.0.0" || u.Pending || u.Attempts != 1 || u.Fetched == 0 || u.Chunks != len(m.asked) {
		t.Errorf("reported %+v", u)
	}
	states := ""
	for _, r := range m.reports {
		states += r.State + " "
	}
	if want := "installing trying confirming reporting "; states != want {
		t.Errorf("told of %q, want %q", states, want)
	}
}

// unhealthy says that the disk is bad where version runs.
func unhealthy(version string) func(string) Condition {
	return func(running string) Condition {
		c := good(running)
		if running == version {
			c.Checks = map[string]string{"disk": "critical"}
		}
		return c
	}
}

func TestUnhealthyReleaseGoesBackByItselfAndStaysAway(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.condition = unhealthy("2.0.0")
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	u := m.wantOutcome(wire.UpdateRolledBack, "disk", "1.0.0")
	if !strings.Contains(u.Text, "check disk is critical, it was ok before") {
		t.Errorf("the text is %q", u.Text)
	}
	boots := m.boots
	m.live(m.settled(1)) // the next start looks again
	if len(m.outcomes()) != 1 || m.boots != boots+1 {
		t.Errorf("it was tried again: %+v", m.outcomes())
	}
}

// flightctl#2470, ADU#150: said "up to date" after a rollback.
func TestRolledBackIsNeverUpToDate(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.condition = unhealthy("2.0.0")
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	m.life(func() bool {
		if !m.settled(1)() {
			return false
		}
		f, err := m.engine.Check(context.Background())
		if err != nil || f.Release != "2.0.0" || !f.Blocked || f.Running != "1.0.0" {
			t.Errorf("check says %+v, %v", f, err)
		}
		if s := m.engine.Status(); s.Last == nil || s.Last.Outcome != wire.UpdateRolledBack {
			t.Errorf("status says %+v", s.Last)
		}
		return true
	})
}

func TestApplyTriesAgainWhatFailed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.condition = unhealthy("2.0.0")
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	m.condition = good
	m.life(func() bool {
		if m.settled(1)() {
			m.engine.Apply(0)
		}
		return false // until it goes down for the trial
	})
	m.live(m.settled(2))
	if last := m.outcomes()[1]; last.Outcome != wire.UpdateInstalled || m.running != "2.0.0" {
		t.Errorf("%s runs after %+v", m.running, last)
	}
}

// The reports of what happened wait as long as they must (flightctl#2470,
// greengrass#1203).
func TestOutcomeOfOfflineTimesIsReportedLater(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.condition = unhealthy("2.0.0")
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	full := errors.New("the outbox is out of order")
	m.refuse = func() error { return full }
	m.live(func() bool { return m.engine.Status().State == Reporting && m.engine.Status().Problem != "" })
	m.life(func() bool { return m.engine.Status().Problem != "" }) // a restart in between
	if len(m.reports) > 0 {
		t.Fatalf("reported %+v", m.reports)
	}
	m.refuse = func() error { return nil }
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateRolledBack, "disk", "1.0.0")
}

func TestUnhealthyMeansWorseThanBeforeNotImperfect(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.condition = func(string) Condition {
		return Condition{Checks: map[string]string{"disk": "warning"}, Link: true, Verdict: "degraded"}
	}
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	if u := m.wantOutcome(wire.UpdateInstalled, "", "2.0.0"); u.Pending {
		t.Error("the verdict is said to be pending")
	}
}

// linked says where there is a fleet.
func linked(versions ...string) func(string) Condition {
	return func(running string) Condition {
		c := good(running)
		if !strings.Contains(strings.Join(versions, " "), running) {
			c.Link, c.Verdict = false, ""
		}
		return c
	}
}

func TestDeadFleetCantVetoAGoodRelease(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.condition = linked() // nowhere, before or after
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	if u := m.wantOutcome(wire.UpdateInstalled, "", "2.0.0"); !u.Pending {
		t.Error("the verdict is not said to be pending")
	}
}

func TestReleaseThatLosesTheFleetGoesBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.condition = linked("1.0.0")
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateRolledBack, "link", "1.0.0")
	if len(m.engine.Status().Blocked) != 1 {
		t.Error("it would be tried again")
	}
}

func TestFleetThatDiesDuringTheTrialDoesNotCondemnTheRelease(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.condition = func(running string) Condition {
		if m.boots == 1 {
			return good(running)
		}
		return linked()(running)
	}
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateRolledBack, "link", "1.0.0")
	if len(m.engine.Status().Blocked) != 0 {
		t.Fatal("the release is blocked")
	}
	m.live(m.settled(2)) // the fleet is still away, the mirror is not
	if u := m.outcomes()[1]; u.Outcome != wire.UpdateInstalled || !u.Pending {
		t.Errorf("then: %+v", u)
	}
}

func TestWrongReleasesAreRefusedBeforeAByteReachesTheSlot(t *testing.T) {
	for rule, change := range map[string]func(*release.Release){
		"epoch":   func(r *release.Release) { r.Epoch = 1 },
		"product": func(r *release.Release) { r.Product = "other" },
		"channel": func(r *release.Release) { r.Channel = "beta" },
		"format":  func(r *release.Release) { r.Hardware = nil },
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.write("trust/product.json", []byte(`{"v":1,"product":"gw","channel":"stable","hardware":"box-1","version":"1.0.0","epoch":2}`))
			r := author("2.0.0")
			r.Epoch = 2
			change(&r)
			m.publish(r, m.image("2.0.0", 4))
			m.live(m.settled(1))
			m.wantOutcome(wire.UpdateRefused, rule, "1.0.0")
			m.wantUntouched()
		})
	}
}

func (m *machine) wantUntouched() {
	m.t.Helper()
	if _, err := os.Stat(m.path("slots/slot-b/rootfs.img")); err == nil {
		m.t.Error("the spare slot was written")
	}
}

func TestReleaseForOtherHardwareIsPassedOver(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	r := author("3.0.0")
	r.Hardware = []string{"box-2"}
	m.publish(r, m.image("3.0.0", 4))
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateInstalled, "", "2.0.0")
}

func TestRefusedReleaseDoesNotHideAGoodOneBelowIt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	r := author("3.0.0")
	r.Product = "other"
	m.publish(r, m.image("3.0.0", 4))
	m.live(m.settled(2))
	all := m.outcomes()
	if all[0].Outcome != wire.UpdateRefused || all[1].Outcome != wire.UpdateInstalled || m.running != "2.0.0" {
		t.Errorf("%s runs after %+v", m.running, all)
	}
}

func TestBrokenSignatureIsToldOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	files := m.repo.Served["timestamp"]
	last := bytes.Clone(files[len(files)-1])
	at := bytes.Index(last, []byte(`"sig"`))
	at += bytes.IndexAny(last[at:], ":") + 10
	last[at] = '0' + (last[at]-'0'+1)%2
	files[len(files)-1] = last
	for range 3 {
		m.life(func() bool { return m.engine.Status().Problem != "" && m.engine.Status().State == Idle })
	}
	m.wantOutcome(wire.UpdateRefused, "tuf/signature", "1.0.0")
	m.wantUntouched()
}

func TestAlteredChunkNeverReachesTheSlot(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.spoil = func(_ string, data []byte) []byte { return append(data[:len(data)-1:len(data)-1], data[len(data)-1]^1) }
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateFailed, "chunk", "1.0.0")
	for name, n := range m.asked {
		if n > maxDamaged {
			t.Errorf("chunk %s was asked for %d times", name, n)
		}
	}
	m.spoil = nil
	m.life(func() bool { m.engine.Apply(0); return len(m.outcomes()) > 1 || m.engine.Status().State == Trying })
	m.live(m.settled(2))
	if m.running != "2.0.0" {
		t.Errorf("%s runs once the store is mended", m.running)
	}
}

func TestBudgetStopsTheUpdateAndSaysSo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 40))
	m.budget = 200 << 10
	m.live(m.settled(1))
	u := m.wantOutcome(wire.UpdateFailed, "budget", "1.0.0")
	if u.Fetched > m.budget || !strings.Contains(u.Text, "204800 bytes") || !strings.Contains(u.Text, "--budget") {
		t.Errorf("reported %+v", u)
	}
	before := len(m.asked)
	m.life(m.settled(1))
	if len(m.asked) != before {
		t.Error("it went on without leave")
	}
	m.life(func() bool {
		if m.settled(1)() {
			m.engine.Apply(1 << 20)
		}
		return len(m.outcomes()) > 1
	})
	m.live(m.settled(2))
	if m.running != "2.0.0" {
		t.Errorf("with leave: %+v", m.outcomes())
	}
	m.wantFetchedAgain(1)
}

// wantFetchedAgain checks that at most so many chunks came twice, none more.
func (m *machine) wantFetchedAgain(most int) {
	m.t.Helper()
	again := 0
	for name, n := range m.asked {
		if n > 2 {
			m.t.Errorf("chunk %s was fetched %d times", name, n)
		}
		if n > 1 {
			again++
		}
	}
	if again > most {
		m.t.Errorf("%d chunks were fetched twice", again)
	}
}

func TestServerThatIsDownForAWhileCostsNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 40))
	asked := 0
	m.spoil = func(_ string, data []byte) []byte {
		if asked++; asked == 3 {
			m.down.Store(true)
			time.AfterFunc(50*time.Millisecond, func() { m.down.Store(false) })
		}
		return data
	}
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateInstalled, "", "2.0.0")
	m.wantFetchedAgain(0)
}

func TestServerThatStaysDownEndsTheUpdateClearly(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 40))
	m.spoil = func(_ string, data []byte) []byte { m.down.Store(true); return data }
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateFailed, "trouble", "1.0.0")
	m.down.Store(false)
	m.spoil = nil
	m.live(m.settled(2))
	if m.running != "2.0.0" {
		t.Errorf("later: %+v", m.outcomes())
	}
	m.wantFetchedAgain(1)
}

func TestNewerReleaseTakesThePlaceOfOneThatCantBeFetched(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	newer := m.image("3.0.0", 4)
	m.spoil = func(_ string, data []byte) []byte {
		m.spoil = func(_ string, data []byte) []byte { return data }
		m.publish(author("3.0.0"), newer)
		return data[:len(data)/2]
	}
	m.live(m.settled(2))
	all := m.outcomes()
	if all[0].Rule != "superseded" || all[1].Outcome != wire.UpdateInstalled || m.running != "3.0.0" {
		t.Errorf("%s runs after %+v", m.running, all)
	}
}

// What carries secrets over must have done so before there is no way back.
type keeper struct {
	m     *machine
	calls []string
	fail  error
}

func (k *keeper) note(what string) {
	trial := "kept"
	if onTrial, err := k.m.engine.Trial(context.Background()); err != nil || onTrial {
		trial = "trial"
	}
	k.calls = append(k.calls, what+" "+trial)
}

func (k *keeper) Foresee(_ context.Context, r *release.Release, slot string) error {
	k.note("foresee " + r.Version + " in " + slot)
	return nil
}

func (k *keeper) Prepare(_ context.Context, r *release.Release) error {
	k.note("prepare " + r.Version)
	return k.fail
}

func (k *keeper) Settle(_ context.Context, r *release.Release) error {
	k.note("settle " + r.Version)
	return nil
}

func TestSecretsAreCarriedOverBeforeTheCommit(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	k := &keeper{m: m}
	m.secrets = k
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateInstalled, "", "2.0.0")
	if got := strings.Join(k.calls, ", "); got != "foresee 2.0.0 in b kept, prepare 2.0.0 trial, settle 2.0.0 kept" {
		t.Errorf("calls: %s", got)
	}
}

func TestReleaseUnderWhichSecretsWouldBeLostGoesBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.secrets = &keeper{m: m, fail: errors.New("the TPM is gone")}
	m.publish(author("2.0.0"), m.image("2.0.0", 4))
	m.live(m.settled(1))
	m.wantOutcome(wire.UpdateRolledBack, "trouble", "1.0.0")
	k := &keeper{m: m, fail: &policy.Refusal{Rule: "secrets", Text: "It does not open."}}
	m.secrets = k
	m.publish(author("3.0.0"), m.image("3.0.0", 4))
	m.live(m.settled(2))
	if last := m.outcomes()[1]; last.Outcome != wire.UpdateRolledBack || last.Rule != "secrets" || len(k.calls) != 2 {
		t.Errorf("a secret that the release can't open: %+v after %v", last, k.calls)
	}
}

// BUDGETS 9.
func TestUpdateThatChangesNothingFetchesAtMost64KB(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.size = 8 << 20
	if long() {
		m.size = 64 << 20
	}
	factory := m.image("1.0.0", 0)
	m.write("slots/slot-a/rootfs.img", factory)
	m.publish(author("1.0.0"), factory)
	image := m.image("2.0.0", 2)
	m.publish(author("2.0.0"), image)
	m.live(m.settled(1))
	first := m.wantOutcome(wire.UpdateInstalled, "", "2.0.0")
	m.publish(author("3.0.0"), image)
	m.live(m.settled(2))
	second := m.outcomes()[1]
	if second.Outcome != wire.UpdateInstalled || second.Fetched > 64<<10 || second.Chunks != 0 {
		t.Errorf("the update that changes nothing: %+v", second)
	}
	if full := int64(m.size); first.Fetched > full*6/100 {
		t.Errorf("an update of 2 %% fetched %d bytes", first.Fetched)
	}
	t.Logf("2 %% changed: %d bytes, nothing changed: %d bytes", first.Fetched, second.Fetched)
}
