package admission

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// MaxTokenLife bounds how long a token may lie about unused.
const MaxTokenLife = 90 * 24 * time.Hour

// A token is gwt-ID-SECRET, in lower-case hex. The secret is in no database.
const (
	tokenPrefix = "gwt-"
	tokenID     = 8  // bytes
	tokenSecret = 16 // bytes
)

// NewToken stores t under a new id, and returns it as it is given to a device.
func NewToken(ctx context.Context, store *registry.Store, t registry.Token) (id, text string, err error) {
	if life := t.Expires.Sub(t.Created); life <= 0 || life > MaxTokenLife {
		return "", "", fmt.Errorf("make token: a life of %s, at most %s is allowed", life, MaxTokenLife)
	}
	random := make([]byte, tokenID+tokenSecret)
	if _, err := rand.Read(random); err != nil {
		return "", "", fmt.Errorf("make token: %w", err)
	}
	t.ID, t.SecretHash = hex.EncodeToString(random[:tokenID]), sha256.Sum256(random[tokenID:])
	if err := store.AddToken(ctx, t); err != nil {
		return "", "", err
	}
	return t.ID, tokenPrefix + t.ID + "-" + hex.EncodeToString(random[tokenID:]), nil
}

// CheckToken returns the id of the token that a device sent, if it may admit d,
// whose Genuine says whether a known maker vouches for it; "" if d is who used
// it before: then its work is done. ErrToken if it is not good. It uses up nothing:
// who sends a token has not proven yet to be the device.
func CheckToken(ctx context.Context, store *registry.Store, d registry.Device, text string, now time.Time) (string, error) {
	id, secret, ok := strings.Cut(strings.TrimPrefix(text, tokenPrefix), "-")
	raw, err := hex.DecodeString(secret)
	if !ok || err != nil || len(raw) != tokenSecret || len(id) != 2*tokenID || !strings.HasPrefix(text, tokenPrefix) {
		return "", fmt.Errorf("%w: it is not of the form %sID-SECRET", ErrToken, tokenPrefix)
	}
	t, err := store.Token(ctx, id)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return "", err
	}
	sum := sha256.Sum256(raw)
	if err != nil || subtle.ConstantTimeCompare(sum[:], t.SecretHash[:]) != 1 {
		return "", fmt.Errorf("%w: this fleet made no such token", ErrToken)
	}
	switch {
	case t.Device == d.ID:
		return "", nil
	case t.Device != "":
		return "", fmt.Errorf("%w: another gateway used it", ErrToken)
	case !t.RevokedAt.IsZero():
		return "", fmt.Errorf("%w: an operator ended it", ErrToken)
	case !now.Before(t.Expires):
		return "", fmt.Errorf("%w: it expired at %s", ErrToken, t.Expires.Format(time.RFC3339))
	case d.SoftwareKeys && !t.AcceptSoftware:
		return "", fmt.Errorf("%w for this gateway: it has no TPM, and the token was not made for one without", ErrToken)
	case !d.SoftwareKeys && !d.Genuine() && !t.AcceptEK:
		return "", fmt.Errorf("%w for this gateway: no known TPM maker vouches for its endorsement key", ErrToken)
	}
	return t.ID, nil
}
