package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// What the owner says in the repository of where the fleet is, how to know it and
// who may command it.
const (
	fleetTarget     = "trust/fleet.json"
	operatorsTarget = "policy/operators.json"
)

// Rests between two looks that failed.
const (
	trustRetry   = 5 * time.Second
	trustPatient = 10 * time.Minute
)

// trustTargets are the documents that the agent takes from the repository, with
// the names under which it keeps them.
func trustTargets() map[string]string {
	return map[string]string{fleetTarget: policy.FleetFile, operatorsTarget: policy.OperatorsFile}
}

// openTrust reads the documents that were installed, and then those that the owner
// published since.
func (a *Agent) openTrust() error {
	fleet, err := readTrust(a.fs, a.settings.Trust, policy.FleetFile, policy.ParseFleet)
	if err != nil {
		return err
	}
	operators, err := readTrust(a.fs, a.settings.Trust, policy.OperatorsFile, policy.ParseOperators)
	if err != nil {
		return err
	}
	if operators.Fleet != fleet.Fleet {
		return fmt.Errorf("%s is of fleet %q, %s of %q: install the documents of one fleet",
			policy.OperatorsFile, operators.Fleet, policy.FleetFile, fleet.Fleet)
	}
	if fleet, err = a.rooted(fleet); err != nil {
		return err
	}
	a.fleet.Store(fleet)
	a.operators.Store(operators)
	if err := a.openRepo(); err != nil {
		return err
	}
	if a.repo != nil {
		a.recallTrust(context.Background())
	}
	return a.clock.Raise(a.lastIssued())
}

func readTrust[T any](files *fsx.FS, dir, name string, parse func([]byte) (*T, error)) (*T, error) {
	path := filepath.Join(dir, name)
	raw, err := files.ReadFile(path, policy.MaxDocument)
	if err != nil {
		return nil, fmt.Errorf("read trust document: %w\nhint: install the fleet's %s there, with `identity.ca` too; `gatewarden-fleet init` makes it", err, name)
	}
	document, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return document, nil
}

// recallTrust takes up what was kept, as far as the owner's metadata on this disk
// still vouch for it: a file that somebody laid there is not believed.
func (a *Agent) recallTrust(ctx context.Context) {
	for target, name := range trustTargets() {
		data := a.keptTrust(name)
		if data == nil {
			continue
		}
		err := a.repo.Check(ctx, target, data)
		if err == nil {
			_, err = a.takeTrust(target, data, false)
		}
		if err != nil {
			a.event("trust.not-recalled", fmt.Sprintf("the kept %s is not used, the installed one is: %v", name, err))
		}
	}
}

// keptTrust is nil if there is none that can be read.
func (a *Agent) keptTrust(name string) []byte {
	data, err := a.fs.ReadFile(a.path(filepath.Join("trust", name)), policy.MaxDocument)
	if err != nil {
		return nil
	}
	return data
}

// takeTrust puts a document that the owner signed into force, if it is newer than
// the one that is. What is older, or of another fleet, is an error; older ones are
// taken under a new root.
func (a *Agent) takeTrust(target string, data []byte, newRoot bool) (taken bool, err error) {
	if target == fleetTarget {
		next, err := policy.ParseFleet(data)
		if err == nil {
			next, err = a.rooted(next)
		}
		if err != nil {
			return false, err
		}
		before := a.fleet.Load()
		taken, err := a.supersedes(next.Fleet, next.Issued, before.Issued, newRoot)
		if taken {
			a.fleet.Store(next)
			a.moved(before, next)
		}
		return taken, err
	}
	next, err := policy.ParseOperators(data)
	if err != nil {
		return false, err
	}
	taken, err = a.supersedes(next.Fleet, next.Issued, a.operators.Load().Issued, newRoot)
	if taken {
		a.operators.Store(next)
	}
	return taken, err
}

// supersedes decides by the document's own words. One that was issued when its root
// was over already is somebody's attempt to move the time floor out of reach.
func (a *Agent) supersedes(fleet string, issued, before time.Time, newRoot bool) (bool, error) {
	if own := a.fleet.Load().Fleet; fleet != own {
		return false, fmt.Errorf("it is of fleet %q, this device is of %q", fleet, own)
	}
	if issued.Before(before) && !newRoot {
		return false, fmt.Errorf("it was issued on %s, the one in force on %s", issued.Format(time.RFC3339), before.Format(time.RFC3339))
	}
	_, end, err := a.repo.Root()
	if err != nil {
		return false, fmt.Errorf("read root of the repository: %w", err)
	}
	if issued.After(end) {
		return false, fmt.Errorf("it says that it was issued on %s, after the end of the root, %s", issued.Format(time.RFC3339), end.Format(time.RFC3339))
	}
	return !issued.Equal(before), nil
}

// moved makes the agent go by a new fleet.json. A certificate that its anchors know
// no more is replaced at once.
func (a *Agent) moved(before, next *policy.Fleet) {
	if a.link == nil || slices.Equal(before.Broker, next.Broker) && slices.Equal(before.API, next.API) && slices.Equal(before.Anchors, next.Anchors) {
		return // New runs, or nothing has moved
	}
	a.identity.AnchorsChanged()
	a.link.Reconnect()
}

// followTrust looks for new documents of the owner as often as for releases, on
// gateways that install nothing too. Each look begins with another mirror.
func (a *Agent) followTrust(ctx context.Context) error {
	if a.updates == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	every := time.Duration(a.settings.Update.Interval)
	rest := time.Duration(rand.Float64() * float64(every) / 10) // after a power failure not the whole fleet at once
	for look, failures, told := 0, 0, ""; ; look++ {
		timer := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		err := a.lookForTrust(beginAt(ctx, look))
		if err == nil {
			rest, failures, told = every, 0, ""
			continue
		}
		a.log.Warn("look for the owner's documents", "error", err)
		if foul(err) && err.Error() != told {
			told = err.Error()
			a.event("trust.refused", told)
		}
		rest = min(every, trustRetry<<min(failures, 10), trustPatient)
		failures++
		if document := new(refusedDocument); errors.As(err, &document) {
			rest = every // it is the owner's to publish another
		}
	}
}

// foul says whether somebody offers what the owner did not sign or took back; a
// mirror that is away or behind is none of that.
func foul(err error) bool {
	var refused *tuf.Refusal
	if errors.As(err, &refused) {
		return refused.Rule != "rollback" && refused.Rule != "expired"
	}
	var document *refusedDocument
	return errors.As(err, &document)
}

// refusedDocument is one that the owner signed and that this device does not take.
type refusedDocument struct {
	target string
	cause  error
}

func (r *refusedDocument) Error() string { return r.target + " is not taken: " + r.cause.Error() }

func (a *Agent) lookForTrust(ctx context.Context) error {
	kept := make(map[string][]byte)
	for target, name := range trustTargets() {
		kept[target] = a.keptTrust(name)
	}
	found, err := a.updates.Documents(ctx, kept)
	if err != nil {
		return err
	}
	root, _, err := a.repo.Root()
	if err != nil {
		return fmt.Errorf("read root of the repository: %w", err)
	}
	known := a.clock.Root()
	var errs []error
	for target, data := range found {
		taken, err := a.takeTrust(target, data, known > 0 && root > known)
		if err != nil {
			errs = append(errs, &refusedDocument{target, err})
			delete(found, target) // nor is it handed on
			continue
		}
		if taken {
			a.event("trust.changed", target+" of the owner is in force")
		}
		if !bytes.Equal(data, kept[target]) {
			errs = append(errs, a.keepTrust(trustTargets()[target], data))
		}
	}
	a.handOperators(ctx, found[operatorsTarget])
	return errors.Join(append(errs, a.clock.RaiseUnder(root, a.lastIssued()))...)
}

// handOperators has the helper go by the owner's operators.json too, once for each
// start and document. It verifies by itself, and may have a reason to refuse; one that
// is away is asked again at the next look.
func (a *Agent) handOperators(ctx context.Context, data []byte) {
	if data == nil || bytes.Equal(data, a.handed) {
		return
	}
	err := a.updates.Carry(func(repository tuf.Fetcher) error { return a.helper.Operators(ctx, data, repository) })
	var refused *policy.Refusal
	switch {
	case err == nil:
	case errors.As(err, &refused) && refused.Rule != "busy":
		a.event("operators.refused", "the helper does not go by the owner's operators.json: "+refused.Error())
	default:
		a.log.Warn("hand the owner's operators to the helper", "error", err)
		return
	}
	a.handed = data
}

// lastIssued is the latest moment that documents in force prove to be past.
func (a *Agent) lastIssued() time.Time {
	fleet, operators := a.fleet.Load().Issued, a.operators.Load().Issued
	if fleet.After(operators) {
		return fleet
	}
	return operators
}

// keepTrust stores a document that is in force already: a full disk must not keep a
// withdrawn operator in office.
func (a *Agent) keepTrust(name string, data []byte) error {
	if err := a.fs.MkdirAll(a.path("trust"), 0o700); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	if err := a.fs.WriteFile(a.path(filepath.Join("trust", name)), data, 0o600); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}

func (a *Agent) messageKeys() []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	for _, key := range a.fleet.Load().MessageKeys {
		keys = append(keys, key)
	}
	return keys
}
