package helper

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gatewarden/gatewarden/helper/slot"
	"github.com/gatewarden/gatewarden/helper/trust"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/ledger"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// verb is something that the helper can be asked.
type verb struct {
	name string
	do   func(s *server, ctx context.Context, r helperwire.Request) (answer, error)
}

// verbs lists all of them but install, which is a session of its own. One that
// changes the system verifies what it is handed.
func verbs() []verb {
	return []verb{
		{helperwire.VerbInfo, (*server).info},
		{helperwire.VerbLogs, (*server).logs},
		{helperwire.VerbReboot, (*server).reboot},
		{helperwire.VerbSlots, (*server).slotsVerb},
		{helperwire.VerbTry, (*server).try},
		{helperwire.VerbCommit, (*server).commit},
		{helperwire.VerbRollback, (*server).rollback},
	}
}

func (s *server) answer(ctx context.Context, r helperwire.Request) answer {
	s.verbs.Lock()
	defer s.verbs.Unlock()
	a, err := s.dispatch(ctx, r)
	a.Version, a.Error = 1, s.explain(r.Verb, err)
	return a
}

// explain puts an error into the words of a response, and into the log.
func (s *server) explain(verb string, err error) *helperwire.Error {
	var refusal *policy.Refusal
	var release *release.Refusal
	var metadata *tuf.Refusal
	var storage *slot.Error
	rule, id := "", ""
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		rule, id, err = refusal.Rule, refusal.ID, refusal
	case errors.As(err, &release):
		rule, err = release.Rule, release
	case errors.As(err, &metadata):
		rule = "tuf/" + metadata.Rule
	case errors.As(err, &storage):
		rule, err = storage.Rule, storage
	case errors.Is(err, tuf.ErrNoTarget):
		rule = "tuf/target"
	default:
		s.Log.Error("request was not done", "verb", verb, "error", err)
		return &helperwire.Error{Text: err.Error()}
	}
	s.Log.Warn("request was refused", "verb", verb, "rule", rule, "id", id, "text", err)
	return &helperwire.Error{Rule: rule, Text: err.Error()}
}

func (s *server) dispatch(ctx context.Context, r helperwire.Request) (answer, error) {
	if r.Version != 1 {
		return answer{}, &policy.Refusal{Rule: policy.RuleFormat, Text: fmt.Sprintf("The helper speaks version 1, not %d.", r.Version)}
	}
	for _, v := range verbs() {
		if v.name == r.Verb {
			return v.do(s, ctx, r)
		}
	}
	return answer{}, &policy.Refusal{Rule: "verb", Text: fmt.Sprintf("The helper has no verb %.40q.", r.Verb)}
}

func (s *server) info(ctx context.Context, _ helperwire.Request) (answer, error) {
	fleet, device, err := s.identity(ctx)
	if err != nil {
		return answer{}, err
	}
	return answer{Response: helperwire.Response{Info: &helperwire.Info{
		Device: device, Fleet: fleet, Software: s.Software, TimeFloor: s.clock.floor, Challenge: s.clock.challenge,
	}}}, nil
}

// identity derives fleet and device id from what only root and the TPM can say.
func (s *server) identity(ctx context.Context) (fleet, device string, err error) {
	f, err := readTrust(s, policy.FleetFile, policy.ParseFleet)
	if err != nil {
		return "", "", err
	}
	if err := s.clock.raise(f.Issued); err != nil {
		return "", "", err
	}
	name, err := s.EKName(ctx)
	if err != nil {
		return "", "", fmt.Errorf("read endorsement key: %w", err)
	}
	return f.Fleet, wire.DeviceID(f.Fleet, name), nil
}

// readTrust reads a policy document from the helper's own trust folder. It is read
// again for each request, so that a withdrawn operator is withdrawn at once.
func readTrust[T any](s *server, name string, parse func([]byte) (*T, error)) (*T, error) {
	v, err := trust.Read(s.FS, filepath.Join(s.Trust, name), policy.MaxDocument, parse)
	if err != nil {
		return nil, fmt.Errorf("read trust folder: %w", err)
	}
	return v, nil
}

func (s *server) logs(context.Context, helperwire.Request) (answer, error) {
	var a answer
	var files [2]*os.File
	for i, path := range []string{s.EventLog, s.IMALog} {
		f, err := openLog(path)
		if err != nil {
			a.close()
			return answer{}, fmt.Errorf("open boot log: %w", err)
		}
		if files[i] = f; f != nil {
			a.files = append(a.files, f)
		}
	}
	a.Logs = &helperwire.Logs{Event: files[0] != nil, IMA: files[1] != nil}
	return a, nil
}

// openLog returns nil for a log that the machine does not have. Below /sys the
// kernel itself places links, and nobody else can.
func openLog(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	flags := os.O_RDONLY | syscall.O_NONBLOCK | syscall.O_CLOEXEC
	if !strings.HasPrefix(path, "/sys/") {
		flags |= syscall.O_NOFOLLOW
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// reboot verifies the operators' envelope, makes sure that it is never run again,
// answers, and then reboots.
func (s *server) reboot(ctx context.Context, r helperwire.Request) (answer, error) {
	cmd, err := s.authorize(ctx, r.Envelope, policy.VerbReboot)
	if err != nil {
		return answer{}, err
	}
	return answer{after: func(ctx context.Context) error {
		s.Log.Info("reboot", "id", cmd.ID, "reason", cmd.Reason)
		outcome, err := wire.OutcomeDone, s.Reboot(ctx)
		if err != nil {
			outcome = wire.OutcomeFailed
		}
		return errors.Join(err, s.ledger.Finish(cmd.ID, outcome), s.ledger.Reported(cmd.ID))
	}}, nil
}

// authorize checks an envelope for a verb and records, durably, that it begins.
func (s *server) authorize(ctx context.Context, env *wire.Envelope, verb string) (wire.Command, error) {
	if env == nil {
		return wire.Command{}, &policy.Refusal{Rule: policy.RuleUnsigned, Text: fmt.Sprintf("The verb %s takes the operators' signed command.", verb)}
	}
	if s.ledger == nil {
		return wire.Command{}, &policy.Refusal{Rule: "state", Text: "The helper's ledger is damaged, so no command runs; its log says what to do."}
	}
	fleet, device, err := s.identity(ctx)
	if err != nil {
		return wire.Command{}, err
	}
	operators, err := s.operators()
	if err != nil {
		return wire.Command{}, err
	}
	now, trusted := s.clock.time()
	cmd, _, err := operators.Authorize(policy.Request{
		Envelope: *env, Fleet: fleet, Device: device, Now: now, TimeTrusted: trusted, Challenge: s.clock.challenge,
	})
	if err != nil {
		return wire.Command{}, err
	}
	if cmd.Verb != verb {
		return wire.Command{}, &policy.Refusal{Rule: "verb", Text: fmt.Sprintf("The command says %q; the helper was asked to %s.", cmd.Verb, verb), ID: cmd.ID, Verb: cmd.Verb}
	}
	return cmd, s.begin(cmd, *env)
}

func (s *server) begin(cmd wire.Command, env wire.Envelope) error {
	expires := cmd.Expires
	if now, _ := s.clock.time(); now.After(expires) {
		expires = now // it came with our challenge, so its own dates mean nothing
	}
	sum := sha256.Sum256(env.Command)
	err := s.ledger.Begin(ledger.Entry{ID: cmd.ID, Verb: cmd.Verb, Envelope: hex.EncodeToString(sum[:]), Expires: expires})
	if errors.Is(err, ledger.ErrSeen) {
		return &policy.Refusal{Rule: "replayed", Text: fmt.Sprintf("A command with id %s began before; each runs once.", cmd.ID), ID: cmd.ID, Verb: cmd.Verb}
	}
	return err
}
