// Package agent wires the device's parts together: configuration, New, Run, the
// list of tasks, the local socket. It decides nothing itself.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/gatewarden/gatewarden/agent/audit"
	"github.com/gatewarden/gatewarden/agent/clock"
	"github.com/gatewarden/gatewarden/agent/command"
	"github.com/gatewarden/gatewarden/agent/evidence"
	"github.com/gatewarden/gatewarden/agent/health"
	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/ledger"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/update"
)

// tpmPatience is how long the chip may take for all that a start needs of it.
const tpmPatience = 3 * time.Minute

// Agent is a device's agent that was set up but may not run yet.
type Agent struct {
	settings Settings
	version  string
	boot     string // random, one per start
	log      *slog.Logger
	fs       *fsx.FS

	fleet     atomic.Pointer[policy.Fleet] // in force; its name never changes
	operators atomic.Pointer[policy.Operators]
	mirrors   *mirrors    // nil where the owner installed no root of a repository
	repo      update.Repo // likewise

	clock    *clock.Clock
	audit    *audit.Log
	outbox   *link.Outbox
	tpm      *tpm.TPM // nil where there is none: see identity.Config
	helper   *client.Client
	identity *identity.Identity
	evidence *evidence.Collector
	health   *health.Tracker
	commands *command.Dispatcher
	disobeys error // why no command runs; nil if they do
	link     *link.Link
	updates  *update.Engine // nil where the owner installed no root of a repository
	secrets  *secret.Keeper // nil without a TPM

	fresh      atomic.Pointer[[]byte] // the challenge of this boot, nil until it is settled
	running    atomic.Pointer[string] // slot, as the helper says
	reported   atomic.Pointer[string] // posture of the last health report, nil before the first
	verdict    atomic.Pointer[wire.Verdict]
	unanswered atomic.Int32           // questions for a verdict since the last one came
	unable     atomic.Int32           // challenges in a row for which no evidence could be made
	foreign    atomic.Pointer[error]  // why the TPM in this machine is not the one that the keys are of
	answered   atomic.Pointer[[]byte] // nonce of the challenge that was answered last
	mayQuote   chan struct{}          // one token; it comes back quotePace after it was taken
	verdicts   chan wire.Verdict      // wakes a waiting Attest; never blocks
	report     chan struct{}          // asks for a health report now
	askSoon    chan struct{}          // says that the last challenge was not answered
	settle     chan struct{}          // asks to settle interrupted commands
	quotes     quotes                 // that this agent made: which verdicts are on this boot
	ofBoot     atomic.Pointer[wire.Verdict]
	locked     atomic.Bool   // secrets are shut until the next boot
	shut       chan struct{} // asks whether they must be
	rest       chan struct{} // says that a burst of work is over
}

// Build says what this binary is, and by which clock it works.
type Build struct {
	Version string
	Time    time.Time // no time before it is believed

	Now    func() time.Time // nil: the system's
	Synced func() bool      // whether a time source set it since boot; nil: the kernel knows
}

// New opens the state folder, the TPM and the trust documents. What can't work is
// said here, in a sentence, before anything runs.
func New(ctx context.Context, s Settings, b Build, log *slog.Logger) (*Agent, error) {
	boot := make([]byte, 8)
	if _, err := rand.Read(boot); err != nil {
		return nil, fmt.Errorf("make boot id: %w", err)
	}
	if b.Now == nil {
		b.Now = time.Now
	}
	if b.Synced == nil {
		b.Synced = clock.KernelSynced
	}
	a := &Agent{
		settings: s, version: b.Version, boot: hex.EncodeToString(boot), log: log, fs: &fsx.FS{},
		mayQuote: make(chan struct{}, 1), verdicts: make(chan wire.Verdict, 1), report: make(chan struct{}, 1), askSoon: make(chan struct{}, 1),
		settle: make(chan struct{}, 1), shut: make(chan struct{}, 1), rest: make(chan struct{}, 1),
	}
	a.mayQuote <- struct{}{}
	if err := a.open(ctx, b); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

func (a *Agent) open(ctx context.Context, b Build) error {
	if err := a.openState(b); err != nil {
		return err
	}
	if err := a.openTrust(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tpmPatience)
	defer cancel()
	for _, step := range []func(context.Context) error{a.openTPM, a.openIdentity} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	for _, step := range []func() error{a.openEvidence, a.openHealth, a.openCommands, a.openLink, a.openSecrets, a.openUpdates} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) path(name string) string { return filepath.Join(a.settings.State, name) }

// openState opens what lies in the state folder (docs/state.md).
func (a *Agent) openState(b Build) error {
	if err := a.fs.MkdirAll(a.settings.State, 0o700); err != nil {
		return fmt.Errorf("make state folder: %w\nhint: `state` in agent.toml must be a folder that this user may write", err)
	}
	if err := checkFormat(a.fs, a.path("format.json")); err != nil {
		return err
	}
	var err error
	if a.clock, err = clock.New(clock.Config{FS: a.fs, Dir: a.settings.State, Build: b.Time, Now: b.Now, Synced: b.Synced}); err != nil {
		return err
	}
	if a.audit, err = audit.Open(a.fs, a.path("audit.log"), a.clock.Time); err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	limits := link.Limits{Bytes: a.settings.Outbox.MaxBytes, Count: a.settings.Outbox.MaxMessages}
	if a.outbox, err = link.OpenOutbox(a.path("outbox.db"), limits, a.log.With("part", "outbox")); err != nil {
		return fmt.Errorf("open outbox: %w", err)
	}
	a.restoreVerdict()
	return nil
}

func (a *Agent) openTPM(ctx context.Context) (err error) {
	if !tpm.Shared(a.settings.TPM) {
		a.log.Warn("the raw TPM device shuts every other program out; use the resource manager /dev/tpmrm0", "tpm", a.settings.TPM)
	}
	a.tpm, err = tpm.Open(ctx, a.settings.TPM, tpm.WithAuth(a.settings.TPMAuth))
	if err == nil {
		return nil
	}
	none := softkey.NoTPM(a.settings.TPM)
	if none && a.settings.Identity.AllowSoftwareKeys {
		a.log.Warn("there is no TPM: software keys are used, as agent.toml allows")
		return nil
	}
	hint := "is the TPM enabled in the firmware, and this user in the group tss?"
	if none {
		hint += " Where a machine has none, `identity.allow_software_keys` does without"
	}
	return fmt.Errorf("%w\nhint: `tpm` in agent.toml names it; %s", err, hint)
}

func (a *Agent) openIdentity(ctx context.Context) (err error) {
	a.identity, err = identity.New(ctx, identity.Config{
		Dir: a.path("identity"), FS: a.fs, TPM: a.tpm, SoftwareKeys: a.tpm == nil && a.settings.Identity.AllowSoftwareKeys, Fleet: a.fleet.Load, Clock: a.clock,
		Model: a.settings.model(), Hostname: a.settings.hostname(), Software: a.version, Token: a.settings.Identity.Token,
		Collect: func(ctx context.Context, c wire.Challenge, keys ...string) (attest.Evidence, error) {
			return a.collect(ctx, c, keys...)
		},
		Verdict: a.judged, Changed: a.credentialChanged, Event: a.event, Log: a.log.With("part", "identity"),
	})
	return err
}

func (a *Agent) openEvidence() (err error) {
	a.helper = client.New(a.settings.Helper)
	a.evidence, err = evidence.New(evidence.Config{
		TPM: a.tpm, AK: a.identity.AK(), First: a.identity.First(), Fleet: a.fleet.Load().Fleet, Device: a.identity.Device(), Claims: a.claims, Logs: a.helper.Logs,
	})
	return err
}

func (a *Agent) openHealth() error {
	checks, err := health.All(health.Deps{
		StateFolder: a.settings.State, EFIVars: health.DefaultEFIVars, Services: a.settings.Health.Services,
		Certificate: a.certificatePeriod, Now: a.clock.Time, SoftwareKeys: a.tpm == nil,
	})
	if err != nil {
		return err
	}
	a.health, err = health.NewTracker(health.Config{
		Checks: checks, Now: a.clock.Time, Log: a.log.With("part", "health"), OnChange: func(health.Report) { a.askReport() },
	})
	return err
}

func (a *Agent) openCommands() error {
	once, err := ledger.Open(a.fs, a.path("commands.ledger"))
	if errors.Is(err, fsx.ErrDamaged) {
		// The device goes on, as far as its owner can still reach it; it obeys nobody.
		a.event("command.ledger-damaged", err.Error())
		once, a.disobeys, err = ledger.Broken(err), err, nil
	}
	if err != nil {
		return fmt.Errorf("open command ledger: %w", err)
	}
	if err := once.Compact(a.clock.Floor()); err != nil {
		return fmt.Errorf("compact command ledger: %w", err)
	}
	verbs, err := command.All(command.Deps{
		Software: a.version, Attest: a.attestNow, Rotate: a.rotateNow, Reboot: a.helper.Reboot,
		Put: func(kind wire.Kind, body any) error { return a.outbox.Put(kind, a.clock.Time(), body) },
	})
	if err != nil {
		return err
	}
	a.commands, err = command.New(command.Config{
		Fleet: a.fleet.Load().Fleet, Device: a.identity.Device(), Operators: a.operators.Load,
		Now: a.clock.Now, Challenge: a.challenge, Sign: a.identity.SignPayload,
		Send:  func(r wire.Receipt) error { return a.outbox.Put(wire.KindReceipt, a.clock.Time(), r) },
		Event: a.tell, Ledger: once, Audit: a.audit, Commands: verbs, Log: a.log.With("part", "command"),
	})
	return err
}

func (a *Agent) openLink() (err error) {
	a.link, err = link.New(link.Config{
		Brokers: func() []string { return a.fleet.Load().Broker }, TLS: a.identity.TLS, Outbox: a.outbox,
		Keys: a.messageKeys, Handle: a.handle, Hello: a.hello,
		OnRefused: func(reason string) { a.identity.Kick("the broker refuses this identity: " + reason) },
		Log:       a.log.With("part", "link"),
	})
	return err
}

// Device is the device id.
func (a *Agent) Device() string { return a.identity.Device() }

// Close releases what New took. Run does it too.
func (a *Agent) Close() {
	var errs []error
	if a.outbox != nil {
		errs = append(errs, a.outbox.Close())
	}
	if a.tpm != nil {
		errs = append(errs, a.tpm.Close())
	}
	if err := errors.Join(errs...); err != nil {
		a.log.Error("close", "error", err)
	}
}
