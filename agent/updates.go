package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
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
	"github.com/gatewarden/gatewarden/update/chunk/store"
	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/fetch"
)

// rootFile is the root of the owner's update repository, in the trust folder. A
// gateway without it follows no repository.
const rootFile = "root.json"

// How patient the agent is with mirrors.
const (
	mirrorDial   = 20 * time.Second
	mirrorAnswer = 30 * time.Second
	mirrorRate   = 256 // bytes a second, at least
	mirrorWindow = 30 * time.Second
	settleTime   = 2 * time.Minute
)

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

// newUpdates makes the update engine, nil where the owner installed no root.
func (a *Agent) newUpdates(u Update) (*update.Engine, error) {
	root, err := a.fs.ReadFile(filepath.Join(a.settings.Trust, rootFile), tuf.MaxRoot)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read root of the update repository: %w", err)
	}
	m := mirrors{meter: &update.Meter{Next: mirrorTransport(a.fleet.Anchors)}}
	m.client = &http.Client{Transport: m.meter}
	for _, api := range a.fleet.API {
		u.Mirrors = append(u.Mirrors[:len(u.Mirrors):len(u.Mirrors)], strings.TrimSuffix(api, "/")+"/v1/tuf")
	}
	m.bases = u.Mirrors
	config := tuf.Config{
		FS: a.fs, Dir: a.path("tuf"), Root: root, Now: func() time.Time { now, _ := a.clock.Now(); return now },
	}
	if config.Metadata, err = m.fetcher("/metadata"); err != nil {
		return nil, err
	}
	if config.Targets, err = m.fetcher("/targets"); err != nil {
		return nil, err
	}
	repo, err := update.NewRepo(config)
	if err != nil {
		return nil, err
	}
	return update.New(update.Config{
		FS: a.fs, Dir: a.path("update"), Repo: repo, Installer: installer{a.helper}, Chunks: m.chunks, Fetched: m.meter.Read,
		Secrets: a.secrets, Condition: a.conditionSince(a.verdict.Load()), Report: a.reportUpdate,
		Budget: u.Budget, Every: time.Duration(u.Interval), Auto: u.Auto, Settle: settleTime, Patience: update.DefaultPatience(),
		Uptime: uptime, Now: a.clock.Time, Rand: rand.Float64, Log: a.log,
	})
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

// conditionSince tells how the device does. before is the verdict that was found on
// disk: it is of another boot, and proves nothing of this one.
func (a *Agent) conditionSince(before *wire.Verdict) func() update.Condition {
	return func() update.Condition {
		c := update.Condition{Checks: make(map[string]string), Link: a.link.Status().Connected}
		for _, f := range a.health.Report().Findings {
			if f.Status != health.Unknown || f.Summary != notChecked {
				c.Checks[f.Check] = f.Status
			}
		}
		if v := a.verdict.Load(); v != nil && v != before {
			c.Verdict = v.Grade
		}
		return c
	}
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

// mirrors are where the owner's repository is served. Nothing of what they say is
// believed: metadata is signed, and all else is named by it.
type mirrors struct {
	client *http.Client
	meter  *update.Meter
	bases  []string
}

func (m mirrors) fetcher(folder string) (tuf.Fetcher, error) {
	var all update.Mirrors
	for _, base := range m.bases {
		one, err := fetch.New(fetch.Config{Base: base + folder, Client: m.client, MinRate: mirrorRate, Window: mirrorWindow})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func (m mirrors) chunks(budget *store.Budget) ([]store.Place, error) {
	var all []store.Place
	for _, base := range m.bases {
		one, err := store.HTTP(store.HTTPConfig{Base: base + "/chunks", Client: m.client, Budget: budget})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// mirrorTransport believes public authorities and the fleet's anchors, and shows
// no certificate: a device that lost its own must be healed too.
func mirrorTransport(anchors []string) *http.Transport {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	for _, anchor := range anchors {
		roots.AppendCertsFromPEM([]byte(anchor))
	}
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		DialContext: (&net.Dialer{Timeout: mirrorDial}).DialContext, TLSHandshakeTimeout: mirrorDial,
		ResponseHeaderTimeout: mirrorAnswer, IdleConnTimeout: mirrorAnswer, MaxIdleConnsPerHost: 1, MaxResponseHeaderBytes: 16 << 10,
	}
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

func (a *Agent) openUpdates() (err error) {
	a.updates, err = a.newUpdates(a.settings.Update)
	return err
}

// localUpdates is nil where nothing is followed.
func (a *Agent) localUpdates() local.Updates {
	if a.updates == nil {
		return nil
	}
	return updates{a.updates}
}
