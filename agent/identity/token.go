package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// tokenFile holds a one-time enrolment token until it was used.
const tokenFile = "token"

// ErrEnrolled says that a token came for a device that has a certificate.
var ErrEnrolled = errors.New("this gateway is enrolled already: a token lets in one that is not")

// errNewToken ends the wait for an operator: a token came meanwhile.
var errNewToken = errors.New("an enrolment token came")

// UseToken keeps a one-time token for the enrolment that is under way or to come.
func (i *Identity) UseToken(token string) error {
	if _, ok := i.Current(); ok {
		return ErrEnrolled
	}
	if !validToken(token) {
		return fmt.Errorf("a token is 1 to %d letters, digits or signs without spaces", wire.MaxText)
	}
	if err := i.store.fs.WriteFile(i.store.path(tokenFile), []byte(token), 0o600); err != nil {
		return fmt.Errorf("store enrolment token: %w", err)
	}
	select {
	case i.newToken <- struct{}{}:
	default: // the one before is not taken up yet
	}
	i.Kick("an enrolment token came")
	return nil
}

func validToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return s != "" && len(s) <= wire.MaxText
}

// token is the one to show, "" if there is none: that which came last, else the
// configured one.
func (i *Identity) token() string {
	select {
	case <-i.newToken: // it is taken up here
	default:
	}
	stored, err := i.store.fs.ReadFile(i.store.path(tokenFile), wire.MaxText)
	switch {
	case err == nil && validToken(string(stored)):
		return string(stored)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		i.cfg.Log.Warn("read enrolment token", "error", err)
	}
	if i.spent {
		return ""
	}
	return i.cfg.Token
}

// forgetToken drops a token that is of no more use.
func (i *Identity) forgetToken() {
	i.spent = true
	if err := i.store.fs.Remove(i.store.path(tokenFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.cfg.Log.Warn("forget enrolment token", "error", err)
	}
}

// tokenJudged passes on the answer to an enrolment. A token that the fleet refused
// is not shown again, so that the device waits for an operator like any other.
func (i *Identity) tokenJudged(err error) error {
	var refused *Refused
	if errors.As(err, &refused) && refused.Rule == "token" {
		i.forgetToken()
		i.cfg.Event("identity.token-refused", "the fleet refused the enrolment token: "+refused.Title)
	}
	return err
}

// patience is the least wait before a waiting device asks again: a fleet that says
// "at once" for ever is not asked for ever more often than every ten seconds.
func patience(asked int) time.Duration { return min(minRetryAfter<<min(asked, 10), 10*time.Second) }

// awaitApproval waits until it is time to ask again.
func (i *Identity) awaitApproval(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-i.newToken:
		return errNewToken
	case <-i.cfg.After(d):
		return nil
	}
}
