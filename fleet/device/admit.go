package device

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gatewarden/gatewarden/fleet/admission"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
)

// token judges the token that came with an enrolment; "" if there is none, or
// none is needed: what the fleet knows already needs no admission.
func (a *api) token(ctx context.Context, d registry.Device, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	known, err := a.Registry.Device(ctx, d.ID)
	switch {
	case err == nil && known.State != registry.Pending:
		return "", nil
	case err != nil && !errors.Is(err, registry.ErrNotFound):
		return "", fmt.Errorf("read device %s: %w", d.ID, err)
	}
	id, err := admission.CheckToken(ctx, a.Registry, d, text, a.Now())
	return id, refuseToken(err)
}

func refuseToken(err error) error {
	if !errors.Is(err, admission.ErrToken) {
		return err
	}
	return refuse(http.StatusForbidden, "token", err.Error(), "give the gateway another token, or none: then an operator decides")
}

// decide admits a pending device that has proven its EK and AK, where a token or
// the allow-list does; admission.ErrUndecided where neither does, ErrNotAttested.
func (a *api) decide(ctx context.Context, c *caller) error {
	err := admission.Automatic(ctx, a.Registry, c.device, c.ticket.Token, verifier.Vouched(c.device, a.EKRoots, a.Now()), a.Now())
	switch {
	case errors.Is(err, registry.ErrState): // an operator was quicker
	case err != nil:
		return refuseToken(err)
	}
	if c.device, err = a.Registry.Device(ctx, c.device.ID); err != nil {
		return fmt.Errorf("read device: %w", err)
	}
	switch {
	case registry.Out(c.device.State):
		return refuseRevoked(c.device)
	case c.device.State == registry.Pending:
		return admission.ErrUndecided
	}
	return nil
}
