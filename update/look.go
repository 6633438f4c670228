package update

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// Offer is a release that the repository has for this device.
type Offer struct {
	Target  string
	Digest  release.Digest // of its custom metadata
	Release *release.Release
	Refused error // why this device must not install it; nil: it may

	custom  []byte
	version string // by its path
	slots   helperwire.Slots
	running *release.Release // what the repository has of the release that runs; may be nil
}

// images are those that the spare slot gets.
func (o *Offer) images() []release.Image {
	return fitting(o.Release, other(o.slots.Running))
}

func fitting(r *release.Release, slot string) []release.Image {
	return slices.DeleteFunc(slices.Clone(r.Images), func(i release.Image) bool { return !i.Fits(slot) })
}

// idle waits for the next look. A trial that no record explains is given up:
// without the record nobody can tell whether it is as good as before.
func (e *Engine) idle(ctx context.Context) (time.Duration, error) {
	slots, err := e.cfg.Installer.Slots(ctx)
	if err != nil {
		return 0, err
	}
	if slots.Trial {
		job := newJob(slots, e.cfg.Now())
		job.Release, job.Old, job.Rule = slots.Version, other(slots.Running), "record"
		job.Text = "The record of this update was lost while it ran on trial."
		return 0, e.change(func(r *Record) { r.State, r.Now = RollingBack, &job })
	}
	e.mu.Lock()
	rest, asked := e.due-e.cfg.Uptime(), e.asked
	e.mu.Unlock()
	if !asked && !e.cfg.Auto {
		return e.cfg.Every, nil
	}
	if !asked && rest > 0 {
		return rest, nil
	}
	return 0, e.change(func(r *Record) { r.State = Checking })
}

func newJob(slots helperwire.Slots, now time.Time) Job {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // it can't fail (crypto/rand)
	return Job{
		ID: hex.EncodeToString(id), Product: slots.Product, Channel: slots.Channel, From: slots.Version, Old: slots.Running, Began: now,
	}
}

// look finds what there is to install. That it could not look is no failure of an
// update: the device is idle again and looks later.
func (e *Engine) look(ctx context.Context) (time.Duration, error) {
	e.mu.Lock()
	unblock, extra := e.unblock, e.extra
	e.mu.Unlock()
	if unblock {
		if err := e.unblocked(); err != nil {
			return 0, err
		}
	}
	e.counted = e.cfg.Fetched()
	offer, err := e.choose(ctx, false)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil {
		return 0, errors.Join(e.miss(err), e.reportMetadata(err))
	}
	if offer == nil {
		e.looked(e.interval())
		return 0, e.change(func(r *Record) { r.State, r.Refused = Idle, "" })
	}
	job := newJob(offer.slots, e.cfg.Now())
	job.Target, job.Digest, job.Release, job.Budget = offer.Target, offer.Digest, offer.version, max(e.cfg.Budget, extra)
	if offer.Release != nil {
		job.Epoch, job.Confirm = offer.Release.Epoch, offer.Release.Confirm
	}
	job.Fetched = e.count()
	state := Fetching
	if offer.Refused != nil {
		rule, _ := classify(offer.Refused)
		state, job.Outcome, job.Rule, job.Text, job.Block, job.Ended = Reporting, wire.UpdateRefused, rule, shorten(offer.Refused.Error()), true, job.Began
	} else {
		e.looked(e.interval())
	}
	return 0, e.begin(state, job)
}

// begin records a new update.
func (e *Engine) begin(s State, job Job) error {
	if err := e.change(func(r *Record) { r.State, r.Now, r.Refused = s, &job, "" }); err != nil {
		return err
	}
	e.entered(s)
	return nil
}

// unblocked forgets what is not to be tried again: a person asked.
func (e *Engine) unblocked() error {
	if err := e.change(func(r *Record) { r.Blocked = nil }); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unblock = false
	return nil
}

// looked notes that the repository was seen, and answers what Apply asked.
func (e *Engine) looked(next time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.due, e.missed, e.misses, e.asked, e.extra = e.cfg.Uptime()+next, nil, 0, false, 0
}

// miss notes that it could not be seen.
func (e *Engine) miss(err error) error {
	e.mu.Lock()
	e.misses++
	rest := backoff(e.cfg.Retry, e.cfg.MaxRest, e.misses, e.cfg.Rand())
	e.due, e.missed, e.asked = e.cfg.Uptime()+min(rest, e.cfg.Every), err, false
	e.mu.Unlock()
	e.log.Warn("look for a release", "error", err, "rest", rest)
	return e.change(func(r *Record) { r.State = Idle })
}

// reportMetadata tells, once, that the repository offers what its owner did not
// sign.
func (e *Engine) reportMetadata(err error) error {
	var refused *tuf.Refusal
	e.mu.Lock()
	known := e.record.Refused
	e.mu.Unlock()
	if !errors.As(err, &refused) || known == refused.Error() {
		return nil
	}
	m := wire.Update{
		Version: 1, ID: newJob(helperwire.Slots{}, time.Time{}).ID, State: string(Checking), Outcome: wire.UpdateRefused,
		Rule: "tuf/" + refused.Rule, Text: shorten(refused.Error()), Began: e.cfg.Now(), Ended: e.cfg.Now(),
	}
	if err := e.cfg.Report(m); err != nil {
		return fmt.Errorf("report refused metadata: %w", err)
	}
	return e.change(func(r *Record) {
		r.Refused = refused.Error()
		r.History = append([]wire.Update{m}, r.History...)
		r.History = r.History[:min(len(r.History), maxHistory)]
	})
}

// choose refreshes the metadata and returns the latest release above the running
// one, nil if there is none. One that is for other hardware, or needs another in
// between, is passed over; one that is wrong comes back with Refused.
func (e *Engine) choose(ctx context.Context, evenBlocked bool) (*Offer, error) {
	slots, err := e.cfg.Installer.Slots(ctx)
	if err != nil {
		return nil, err
	}
	prefix := "releases/" + slots.Product + "/" + slots.Channel + "/"
	e.repo.Lock()
	defer e.repo.Unlock()
	if err := e.cfg.Repo.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("refresh metadata: %w", err)
	}
	targets, err := e.cfg.Repo.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	offers, err := above(targets, prefix, slots.Version)
	if err != nil {
		return nil, err
	}
	running := find(targets, prefix+slots.Version+".json")
	for _, o := range offers {
		o.slots, o.running = slots, running
		if !evenBlocked && e.blocked(o) {
			continue
		}
		o.judge(prefix)
		if rule, _ := classify(o.Refused); o.Refused != nil && (rule == "hardware" || rule == "source") {
			continue
		}
		return o, nil
	}
	return nil, nil
}

// find reads the release at a path, nil if there is none that can be read.
func find(targets []Target, path string) *release.Release {
	for _, t := range targets {
		if t.Path == path {
			r, _ := release.Parse(t.Custom)
			return r
		}
	}
	return nil
}

// above returns the releases with a version above running, the latest first.
func above(targets []Target, prefix, running string) ([]*Offer, error) {
	now, err := release.ParseVersion(running)
	if err != nil {
		return nil, fmt.Errorf("read running version: %w", err)
	}
	type dated struct {
		*Offer
		version release.Version
	}
	var all []dated
	for _, t := range targets {
		name, ok := strings.CutSuffix(strings.TrimPrefix(t.Path, prefix), ".json")
		version, err := release.ParseVersion(name)
		if !ok || err != nil || version.Compare(now) <= 0 {
			continue
		}
		all = append(all, dated{&Offer{Target: t.Path, Digest: sha256.Sum256(t.Custom), custom: t.Custom, version: name}, version})
	}
	sort.Slice(all, func(a, b int) bool { return all[a].version.Compare(all[b].version) > 0 })
	offers := make([]*Offer, 0, len(all))
	for _, d := range all[:min(len(all), maxReleases)] {
		offers = append(offers, d.Offer)
	}
	return offers, nil
}

func (e *Engine) blocked(o *Offer) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.record.Blocked, func(b Block) bool { return b.Target == o.Target && b.Digest == o.Digest })
}

// judge reads the release and holds it against the device.
func (o *Offer) judge(prefix string) {
	r, err := release.Parse(o.custom)
	if err != nil {
		o.Refused = &release.Refusal{Rule: "format", Text: err.Error()}
		return
	}
	o.Release = r
	if o.Target != prefix+r.Version+".json" {
		o.Refused = &release.Refusal{Rule: "path", Text: fmt.Sprintf("release %s stands at %.100q", r.Name(), o.Target)}
		return
	}
	s := o.slots
	o.Refused = r.Applies(release.Device{Product: s.Product, Channel: s.Channel, Hardware: s.Hardware, Version: s.Version, Epoch: s.Epoch})
}

// other is the slot that is not slot.
func other(slot string) string {
	if slot == "a" {
		return "b"
	}
	return "a"
}
