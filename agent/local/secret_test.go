package local

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// box keeps secrets in clear: who may ask is what these tests are about.
type box map[string]string

func (b box) SecretPut(_ context.Context, name string, s Sealing) ([]string, error) {
	b[name] = string(s.Data)
	return []string{"it is a test"}, nil
}

func (b box) SecretGet(_ context.Context, name string) ([]byte, error) {
	if _, ok := b[name]; !ok {
		return nil, errors.New("no such secret")
	}
	return []byte(b[name]), nil
}

func (b box) SecretDigest(name string) ([]byte, error) { return []byte("digest of " + name), nil }

func (b box) SecretRecover(ctx context.Context, name string, signature []byte) ([]byte, error) {
	if string(signature) != "signature" {
		return nil, errors.New("another key signed")
	}
	return b.SecretGet(ctx, name)
}

func (b box) SecretReset() error {
	clear(b)
	return nil
}

func (b box) SecretList() ([]Secret, error) {
	list := []Secret{}
	for name := range b {
		list = append(list, Secret{Name: name, Epoch: 1})
	}
	return list, nil
}

func (b box) SecretRemove(name string) error {
	delete(b, name)
	return nil
}

func serveSecrets(t *testing.T, b box, as func(context.Context, net.Conn) context.Context) string {
	t.Helper()
	return serveMux(t, func(mux *http.ServeMux) { routeSecrets(mux, b) }, as)
}

// TestTheGroupSeesNamesAndNothingElseOfSecrets: only root and the agent's own user
// seal, open and remove.
func TestTheGroupSeesNamesAndNothingElseOfSecrets(t *testing.T) {
	b := box{"a": "secret"}
	stranger := uint32(os.Geteuid()) + 4711
	for name, as := range map[string]func(context.Context, net.Conn) context.Context{
		"another user": peer(stranger),
		"nobody known": func(ctx context.Context, _ net.Conn) context.Context { return ctx },
	} {
		socket := serveSecrets(t, b, as)
		if list, err := ListSecrets(t.Context(), socket); err != nil || len(list) != 1 {
			t.Errorf("%s lists %v, %v", name, list, err)
		}
		_, putErr := Seal(t.Context(), socket, "b", Sealing{Data: []byte("x")})
		data, getErr := Unseal(t.Context(), socket, "a")
		rmErr := RemoveSecret(t.Context(), socket, "a")
		recovered, recoverErr := Recover(t.Context(), socket, "a", []byte("signature"))
		data = append(data, recovered...)
		for _, err := range []error{putErr, getErr, rmErr, recoverErr, ResetSecrets(t.Context(), socket)} {
			if err == nil || !strings.Contains(err.Error(), "only root") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(data) != 0 || len(b) != 1 {
			t.Errorf("%s got %q, left %v", name, data, b)
		}
	}
	socket := serveSecrets(t, b, peer(0))
	if w, err := Seal(t.Context(), socket, "b", Sealing{Data: []byte("new")}); err != nil || len(w) != 1 || b["b"] != "new" {
		t.Errorf("root seals: %v, %v", w, err)
	}
	if data, err := Unseal(t.Context(), socket, "b"); err != nil || string(data) != "new" {
		t.Errorf("root opens: %q, %v", data, err)
	}
	if digest, err := RecoveryDigest(t.Context(), socket, "b"); err != nil || string(digest) != "digest of b" {
		t.Errorf("what is to be signed: %q, %v", digest, err)
	}
	if data, err := Recover(t.Context(), socket, "b", []byte("signature")); err != nil || string(data) != "new" {
		t.Errorf("root recovers: %q, %v", data, err)
	}
	if err := RemoveSecret(t.Context(), socket, "b"); err != nil || len(b) != 1 {
		t.Errorf("root removes: %v", err)
	}
	if _, err := Unseal(t.Context(), socket, "b"); err == nil || !strings.Contains(err.Error(), "no such secret") {
		t.Errorf("a secret that is not there: %v", err)
	}
	if _, err := Seal(t.Context(), socket, "b", Sealing{Data: make([]byte, maxSealing)}); err == nil || len(b) != 1 {
		t.Errorf("too long: %v", err)
	}
}
