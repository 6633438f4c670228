package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/agent/health"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/bound"
	"github.com/gatewarden/gatewarden/internal/conf"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// rootFile is the root of the owner's update repository, in the trust folder. A
// gateway without it follows no repository.
const rootFile = "root.json"

// settleTime is how long a device may take to show its condition before an update.
const settleTime = 2 * time.Minute

// notChecked is the summary of a health check that has not run since the start.
const notChecked = "not checked yet"

// Update says how the device takes in releases.
type Update struct {
	Auto     bool          `toml:"auto"`     // install what the owner released; else only `gatewarden update apply` does
	Interval conf.Duration `toml:"interval"` // between two looks at the repository
	Budget   int64         `toml:"budget"`   // bytes that one update may fetch
	Mirrors  []string      `toml:"mirrors"`  // https addresses of the repository, asked before the fleet's
}

// defaultUpdate is for Settings.
func defaultUpdate() Update {
	return Update{Auto: true, Interval: conf.Duration(time.Hour), Budget: 1 << 30, Mirrors: []string{}}
}

func (u *Update) check() error {
	if time.Duration(u.Interval) < time.Second || u.Budget < 1<<20 {
		return errors.New("`update.interval` must be at least 1s and `update.budget` at least 1048576 bytes")
	}
	for _, mirror := range u.Mirrors {
		if m, err := url.Parse(mirror); err != nil || m.Scheme != "https" || m.Host == "" {
			return fmt.Errorf("`update.mirrors` must hold https addresses, %q is none", mirror)
		}
	}
	return nil
}

// openRepo opens the owner's repository; it stays nil where no root is installed.
func (a *Agent) openRepo() error {
	root, err := a.fs.ReadFile(filepath.Join(a.settings.Trust, rootFile), tuf.MaxRoot)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read root of the update repository: %w", err)
	}
	a.mirrors = newMirrors(a.settings.Update.Mirrors, a.fleet.Load)
	a.repo, err = update.NewRepo(tuf.Config{
		FS: a.fs, Dir: a.path("tuf"), Root: root, Now: a.metadataTime,
		Metadata: folder{a.mirrors, "/metadata"}, Targets: folder{a.mirrors, "/targets"},
	})
	return err
}

// metadataTime is what metadata must not have outlived: the time, where it may be
// believed, else the floor. A clock that is ahead must not keep a device from what
// its owner signed.
func (a *Agent) metadataTime() time.Time {
	now, trusted := a.clock.Now()
	if !trusted {
		return a.clock.Floor()
	}
	return now
}

// openUpdates makes the update engine; it stays nil where there is no repository.
func (a *Agent) openUpdates() (err error) {
	if a.repo == nil {
		return nil
	}
	u := a.settings.Update
	var secrets update.Resealer
	if a.secrets != nil {
		secrets = a.secrets
	}
	a.updates, err = update.New(update.Config{
		FS: a.fs, Dir: a.path("update"), Repo: a.repo, Installer: installer{a.helper}, Chunks: a.mirrors.chunks, Fetched: a.mirrors.meter.Read,
		Secrets: secrets, Condition: a.condition, Report: a.reportUpdate,
		Budget: u.Budget, Every: time.Duration(u.Interval), Auto: u.Auto, Settle: settleTime, Patience: update.DefaultPatience(),
		Uptime: uptime, Now: a.clock.Time, Rand: rand.Float64, Log: a.log,
	})
	return err
}

// runUpdates follows the repository until ctx ends. A gateway without slots or
// without a repository is a gateway without updates, not a broken one.
func (a *Agent) runUpdates(ctx context.Context, engine *update.Engine) error {
	if engine == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	var refused *policy.Refusal
	if _, err := a.helper.Slots(ctx); errors.As(err, &refused) && refused.Rule == "no-update" {
		a.log.Info("this gateway has no slots; nothing will be installed")
		<-ctx.Done()
		return ctx.Err()
	}
	return engine.Run(ctx)
}

// reportUpdate makes an outcome durable in the outbox, and writes it to the audit
// log.
func (a *Agent) reportUpdate(u wire.Update) error {
	if err := a.outbox.Put(wire.KindUpdate, a.clock.Time(), u); err != nil {
		return err
	}
	if u.Outcome != "" {
		a.event(bound.Outcome(u))
	}
	return nil
}

// condition tells how the device does. A verdict on another boot proves nothing.
func (a *Agent) condition() update.Condition {
	c := update.Condition{Checks: make(map[string]string), Link: a.link.Status().Connected}
	for _, f := range a.health.Report().Findings {
		if f.Status != health.Unknown || f.Summary != notChecked {
			c.Checks[f.Check] = f.Status
		}
	}
	if v := a.ofBoot.Load(); v != nil {
		c.Verdict = v.Grade
	}
	return c
}

// uptime is the time since boot, sleep included.
func uptime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // it can't fail on a kernel that runs this binary
	}
	return time.Duration(now.Nano())
}

// installer is the helper in the eyes of the engine.
type installer struct{ *client.Client }

func (i installer) Install(ctx context.Context, target string, metadata tuf.Fetcher) (update.Session, error) {
	session, err := i.Client.Install(ctx, target, metadata)
	if err != nil {
		return nil, err // not a Session that holds a nil pointer
	}
	return session, nil
}

// updates is what the local socket asks.
type updates struct{ engine *update.Engine }

func (u updates) UpdateStatus() update.Status                           { return u.engine.Status() }
func (u updates) UpdateHistory() []wire.Update                          { return u.engine.History() }
func (u updates) UpdateApply(budget int64)                              { u.engine.Apply(budget) }
func (u updates) UpdateCheck(ctx context.Context) (update.Found, error) { return u.engine.Check(ctx) }

func (u updates) UpdateTrial(ctx context.Context) (bool, error) { return u.engine.Trial(ctx) }

var (
	_ local.Updates = updates{}
	_ local.Trials  = updates{}
)

// localUpdates is nil where nothing is followed.
func (a *Agent) localUpdates() local.Updates {
	if a.updates == nil {
		return nil
	}
	return updates{a.updates}
}
