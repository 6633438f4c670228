package helper

import (
	"bytes"
	"context"
	"errors"

	"github.com/gatewarden/gatewarden/helper/trust"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/helperwire"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/update/tuf"
)

// operators returns who may command. The floor rises by what root installed alone:
// one stolen key could move it to 2090 otherwise.
func (s *server) operators() (trust.Operators, error) {
	installed, err := readTrust(s, policy.OperatorsFile, policy.ParseOperators)
	if err == nil {
		err = s.clock.raise(installed.Issued)
	}
	if err != nil {
		return trust.Operators{}, err
	}
	return trust.InForce(s.FS, s.statePath(policy.OperatorsFile), installed)
}

// adopt takes the operators' document that the owner published.
func (i *install) adopt(ctx context.Context, r helperwire.Request) (none helperwire.Response, err error) {
	data, err := i.raw(r, policy.MaxDocument)
	if err != nil {
		return none, err
	}
	repository, err := i.repository(ctx)
	if err != nil {
		return none, err
	}
	target, err := repository.Target(ctx, "policy/operators.json")
	if err == nil {
		err = target.Check(bytes.NewReader(data))
	}
	if err != nil {
		return none, err
	}
	if target.Role() != tuf.Targets {
		return none, refuse("role", "Who may command is not for the role %.70q to say.", target.Role())
	}
	i.verbs.Lock()
	defer i.verbs.Unlock()
	now, err := i.operators()
	if err != nil && !errors.Is(err, fsx.ErrDamaged) {
		return none, err
	}
	root, end := repository.Root()
	return none, now.Adopt(i.FS, i.statePath(policy.OperatorsFile), data, root, end)
}
