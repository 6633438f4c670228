package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Run works until ctx ends or a task fails.
func (a *Agent) Run(ctx context.Context) error {
	defer a.Close()
	socket, err := a.listen()
	if err != nil {
		return err
	}
	a.log.Info("agent started", "device", a.Device(), "version", a.version)
	a.event("agent.started", "agent "+a.version+" started")
	// Whoever asks the socket now is answered as soon as its task runs.
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		a.log.Warn("tell the service manager", "error", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, task := range []func(context.Context) error{
		a.fetchCA,
		a.identity.Run,
		a.link.Run,
		a.health.Run,
		a.settleCommands,
		a.settleChallenge,
		a.reportHealth,
		a.attestRegularly,
		a.feedWatchdog,
		func(ctx context.Context) error { return a.runUpdates(ctx, a.updates) },
		a.followTrust,
		a.withTPM(a.settleSecrets),
		a.withTPM(a.lockInQuarantine),
		a.withTPM(a.anchorAudit),
		a.giveBack,
		func(ctx context.Context) error {
			return local.Serve(ctx, socket, a, a.localUpdates(), a.localSecrets())
		},
	} {
		group.Go(func() error { return task(ctx) })
	}
	err = group.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// withTPM is a task that there is nothing to do for without one.
func (a *Agent) withTPM(task func(context.Context) error) func(context.Context) error {
	if a.tpm != nil {
		return task
	}
	return func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
}

// listen opens the local socket for the group of the agent.
func (a *Agent) listen() (net.Listener, error) {
	path := a.settings.Socket
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("make folder of the local socket: %w\nhint: `socket` in agent.toml names it", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("another agent answers on %s already", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open local socket: %w\nhint: `socket` in agent.toml names it", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("open local socket to the group: %w", err)
	}
	return l, nil
}

// handle takes in what the fleet sends.
func (a *Agent) handle(ctx context.Context, kind wire.Kind, payload []byte) {
	switch kind {
	case wire.KindChallenge:
		a.noteEvidence(a.answer(ctx, payload))
	case wire.KindVerdict:
		var v wire.Verdict
		if err := strictjson.Inform(payload, &v); err != nil || v.Version != 1 || v.Device != a.Device() {
			a.log.Warn("verdict ignored", "error", err, "v", v.Version, "device", v.Device)
			return
		}
		a.judged(v)
		a.identity.Heed(v)
	case wire.KindCommand:
		a.commands.Handle(ctx, payload)
	default:
		a.log.Warn("message of unknown kind ignored", "kind", kind)
	}
}

func (a *Agent) credentialChanged(c identity.Credential) {
	a.event("identity.renewed", fmt.Sprintf("certificate %s for %s until %s", wire.ShortSerial(c.Serial()), c.Identity, c.Leaf().NotAfter.UTC().Format(time.RFC3339)))
	if a.link != nil { // nil while New runs
		a.link.Reconnect()
	}
	select {
	case a.settle <- struct{}{}:
	default:
	}
	a.considerLock()
}

// event writes to the audit log and tells the fleet.
func (a *Agent) event(name, text string) {
	entry, err := a.audit.Append(name, text)
	if err != nil {
		a.log.Error("record event", "event", name, "error", err)
		return
	}
	a.tell(entry)
}

// tell sends an audit entry to the fleet.
func (a *Agent) tell(entry wire.Event) {
	if err := a.outbox.Put(wire.KindEvent, a.clock.Time(), entry); err != nil {
		a.log.Error("send event", "event", entry.Name, "error", err)
	}
}

// challenge is what a command must carry while there is no trustworthy time; nil
// until it is settled whose that is.
func (a *Agent) challenge() []byte {
	if settled := a.fresh.Load(); settled != nil {
		return *settled
	}
	return nil
}

// helperPatience is about how long the agent waits for its helper's challenge.
const helperPatience = 16 * time.Second

// slot is the one that runs, "" where there are none or the helper did not say yet.
func (a *Agent) slot() string {
	if running := a.running.Load(); a.settings.Slot == "" && running != nil {
		return *running
	}
	return a.settings.Slot
}

// settleChallenge takes the helper's, which checks its commands by itself and keeps
// one for the whole boot. A gateway whose helper does not answer has its own.
func (a *Agent) settleChallenge(ctx context.Context) error {
	fresh := a.clock.Challenge()
	err := a.patiently(ctx, func() error {
		info, err := a.helper.Info(ctx)
		if err == nil && len(info.Challenge) != wire.NonceSize {
			err = errors.New("the helper has no challenge")
		}
		if err == nil {
			fresh = info.Challenge
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		a.log.Warn("commands have to carry the agent's own challenge", "error", err)
	}
	a.fresh.Store(&fresh)
	if slots, err := a.helper.Slots(ctx); err == nil {
		a.running.Store(&slots.Running)
	}
	a.askReport()
	<-ctx.Done()
	return ctx.Err()
}

// patiently tries what needs the helper, which may come after the agent.
func (a *Agent) patiently(ctx context.Context, try func() error) error {
	for wait := helperPatience / 16; ; wait *= 2 {
		err := try()
		if err == nil || wait >= helperPatience {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// settleCommands answers for commands that a power cut interrupted, at start and
// with each new credential, because receipts need one.
func (a *Agent) settleCommands(ctx context.Context) error {
	for {
		if _, ok := a.identity.Current(); ok {
			if err := a.commands.Settle(ctx); err != nil && ctx.Err() == nil {
				a.log.Error("settle interrupted commands", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			a.commands.Wait()
			return ctx.Err()
		case <-a.settle:
		}
	}
}

// attestNow and rotateNow are what the commands of these names do.
func (a *Agent) attestNow(ctx context.Context) (any, error) {
	if err := a.Attest(ctx); err != nil {
		return nil, err
	}
	return a.Status().Verdict, nil
}

func (a *Agent) rotateNow(ctx context.Context) (any, error) {
	if err := a.identity.Rotate(ctx); err != nil {
		return nil, err
	}
	return a.Status().Certificate, nil
}

// hello is the first message of each connection; askAgain the same later on.
func (a *Agent) hello() wire.Hello {
	return wire.Hello{Version: 1, Software: a.version, Boot: a.boot, Connected: true}
}

func (a *Agent) certificatePeriod() (notBefore, notAfter time.Time, found bool) {
	c, ok := a.identity.Current()
	if !ok {
		return time.Time{}, time.Time{}, false
	}
	return c.Leaf().NotBefore, c.Leaf().NotAfter, true
}

// askReport sends a health report soon.
func (a *Agent) askReport() {
	select {
	case a.report <- struct{}{}:
	default:
	}
}

// reportHealth puts a report into the outbox at each interval and change.
func (a *Agent) reportHealth(ctx context.Context) error {
	ticker := time.NewTicker(time.Duration(a.settings.Health.Interval))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		case <-a.report:
		}
		report := a.healthMessage()
		if err := a.outbox.Put(wire.KindHealth, a.clock.Time(), report); err != nil {
			a.log.Error("store health report", "error", err)
			continue
		}
		a.reported.Store(&report.Posture)
	}
}

func (a *Agent) healthMessage() wire.Health {
	report := a.health.Report()
	_, trusted := a.clock.Now()
	var judged string
	if v := a.verdict.Load(); v != nil {
		judged = v.Summary()
	}
	return wire.Health{
		Version: 1, Software: a.version, Slot: a.slot(), Grade: report.Grade, Findings: report.Findings, Posture: report.Posture,
		TimeTrust: trusted, Challenge: a.challenge(), Dropped: a.outbox.Dropped(), Verdict: judged,
	}
}

// feedWatchdog tells the service manager that the agent works, as long as the TPM
// answers: a chip that hangs hangs the agent, and a restart may help.
func (a *Agent) feedWatchdog(ctx context.Context) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if err := a.askTPM(ctx); err != nil {
			a.log.Error("the TPM does not answer; the watchdog is not fed", "error", err)
			continue
		}
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
			a.log.Warn("feed watchdog", "error", err)
		}
	}
}

func (a *Agent) askTPM(ctx context.Context) error {
	if a.tpm == nil {
		return nil
	}
	_, err := a.tpm.ReadPCRs(ctx, []int{0})
	return err
}

// Status is what the local socket tells.
func (a *Agent) Status() local.Status {
	now, trusted := a.clock.Now()
	phase, problem := a.identity.Status()
	connection, report := a.link.Status(), a.health.Report()
	index, head := a.audit.Head()
	s := local.Status{
		Software: a.version, Fleet: a.fleet.Load().Fleet, Device: a.Device(), Model: a.settings.model(), Slot: a.slot(), Now: now, TimeTrusted: trusted, Phase: phase,
		Link: local.Link{
			Connected: connection.Connected, Identity: connection.Identity, Broker: connection.Broker,
			Since: connection.Since, LastError: connection.LastError,
		},
		Outbox: local.Outbox{Pending: a.outbox.Pending(), Dropped: a.outbox.Dropped()},
		Health: local.Health{Grade: report.Grade, Findings: report.Findings}, AuditIndex: index, AuditHead: head,
	}
	if problem = cmp.Or(problem, a.disobeys); problem != nil {
		s.Problem = problem.Error()
	}
	s.Locked, s.SoftwareKeys = a.locked.Load(), a.tpm == nil
	if c, ok := a.identity.Current(); ok {
		leaf := c.Leaf()
		s.Certificate = &local.Certificate{
			Identity: c.Identity, Serial: c.Serial(), Issuer: leaf.Issuer.CommonName, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
			RenewAt: identity.RenewAt(leaf.NotBefore, leaf.NotAfter, leaf.SerialNumber.Bytes()), SPKI: c.SPKI(),
		}
		if r := a.identity.Record(); r.Serial == c.Serial() {
			s.Certificate.Gate, s.Certificate.Reason, s.Certificate.Why = r.Gate, r.Reason, r.Why
		}
	}
	if v := a.verdict.Load(); v != nil {
		s.Verdict = &local.Verdict{Grade: v.Grade, Gate: v.Gate, Issued: v.Issued, Explanation: v.Explanation, Result: v.Result}
	}
	return s
}

// format.json says which layout the state folder has.
type format struct {
	Version int `json:"format"`
}

const stateFormat = 1

// checkFormat marks a new state folder, and refuses one of a later release.
func checkFormat(files *fsx.FS, path string) error {
	var f format
	err := files.ReadJSON(path, 4<<10, &f)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsx.ErrDamaged) {
		return files.WriteJSON(path, format{Version: stateFormat}, 0o600)
	}
	if err != nil {
		return fmt.Errorf("read state format: %w\nhint: `state` in agent.toml must be a folder that this user may read", err)
	}
	if f.Version > stateFormat {
		return fmt.Errorf("the state folder has format %d, this release knows up to %d: install the release that wrote it", f.Version, stateFormat)
	}
	return nil
}
