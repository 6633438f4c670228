package local

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// Secrets is what keeps sealed secrets.
type Secrets interface {
	// SecretPut seals and stores. The warnings say what the sealing does not cover.
	SecretPut(ctx context.Context, name string, s Sealing) (warnings []string, err error)
	SecretGet(ctx context.Context, name string) ([]byte, error)
	// SecretDigest is what the secret's recovery key has to sign for SecretRecover.
	SecretDigest(name string) ([]byte, error)
	SecretRecover(ctx context.Context, name string, signature []byte) ([]byte, error)
	SecretList() ([]Secret, error)
	SecretRemove(name string) error
	// SecretReset forgets all of them, and the chip that sealed them.
	SecretReset() error
}

// Secret is a stored secret, without what it hides.
type Secret struct {
	Name    string `json:"name"`
	Unit    string `json:"unit,omitempty"`  // systemd unit that may have it
	Until   string `json:"until,omitempty"` // boot phase in which it shuts
	Epoch   uint64 `json:"epoch"`           // security epoch for which it was sealed
	Problem string `json:"problem,omitempty"`
}

// Sealing is a secret and for whom it is to be sealed.
type Sealing struct {
	Unit        string `json:"unit,omitempty"`
	Until       string `json:"until,omitempty"`
	RecoveryKey []byte `json:"recovery_key,omitempty"` // SubjectPublicKeyInfo
	Data        []byte `json:"data"`
}

// opened is the answer to unseal and to recover; signed is the body of the latter,
// and the digest before.
type (
	opened struct {
		Data []byte `json:"data"`
	}
	signed struct {
		Signature []byte `json:"signature,omitempty"`
		Digest    []byte `json:"digest,omitempty"`
	}
)

// sealed is the answer to seal.
type sealed struct {
	Warnings []string `json:"warnings"`
}

const (
	pathSecrets = "/v1/secrets"
	maxSealing  = 128 << 10 // bytes: a secret of 64 KiB as JSON
)

// routeSecrets adds the paths of secrets. The group may see their names; what they
// hide, and a change, is root's. s is nil where there is no TPM.
func routeSecrets(mux *http.ServeMux, s Secrets) {
	handle := func(pattern string, answer func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && !mayChange(r) {
				refuse(w, wire.Problem{Status: http.StatusForbidden, Title: "only root may seal, unseal or remove secrets", Detail: "run it with sudo"})
				return
			}
			if s == nil {
				refuse(w, wire.Problem{Status: http.StatusConflict, Title: "this gateway has no TPM, to which secrets are sealed", Detail: "its keys are software keys; docs/software-keys.md says what does not work so"})
				return
			}
			v, err := answer(r)
			if err != nil {
				refuse(w, wire.Problem{Status: http.StatusConflict, Title: err.Error(), Detail: "`gatewarden attest` says how this boot was judged"})
				return
			}
			write(w, v)
		})
	}
	handle("GET "+pathSecrets, func(*http.Request) (any, error) { return s.SecretList() })
	handle("PUT "+pathSecrets+"/{name}", func(r *http.Request) (any, error) {
		var body Sealing
		if err := readBody(r, &body); err != nil {
			return nil, err
		}
		warnings, err := s.SecretPut(r.Context(), r.PathValue("name"), body)
		return sealed{warnings}, err
	})
	handle("POST "+pathSecrets+"/{name}/open", func(r *http.Request) (any, error) {
		data, err := s.SecretGet(r.Context(), r.PathValue("name"))
		return opened{data}, err
	})
	handle("GET "+pathSecrets+"/{name}/digest", func(r *http.Request) (any, error) {
		digest, err := s.SecretDigest(r.PathValue("name"))
		return signed{Digest: digest}, err
	})
	handle("POST "+pathSecrets+"/{name}/recover", func(r *http.Request) (any, error) {
		var body signed
		if err := readBody(r, &body); err != nil {
			return nil, err
		}
		data, err := s.SecretRecover(r.Context(), r.PathValue("name"), body.Signature)
		return opened{data}, err
	})
	handle("DELETE "+pathSecrets, func(*http.Request) (any, error) { return struct{}{}, s.SecretReset() })
	handle("DELETE "+pathSecrets+"/{name}", func(r *http.Request) (any, error) {
		return struct{}{}, s.SecretRemove(r.PathValue("name"))
	})
}

func readBody(r *http.Request, v any) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxSealing))
	if err != nil {
		return err
	}
	return strictjson.Unmarshal(data, v)
}

// mayChange holds for root, and for the agent's own user, who has the TPM and all
// files anyway; the group may only read.
func mayChange(r *http.Request) bool {
	uid, ok := r.Context().Value(peerKey{}).(uint32)
	return ok && (uid == 0 || int(uid) == os.Geteuid())
}

// Seal has the agent that listens on socket seal under a name. The warnings say what
// that does not cover.
func Seal(ctx context.Context, socket, name string, s Sealing) (warnings []string, err error) {
	var answer sealed
	err = call(ctx, socket, http.MethodPut, secretPath(name), s, &answer)
	return answer.Warnings, err
}

// Unseal opens a secret.
func Unseal(ctx context.Context, socket, name string) ([]byte, error) {
	var answer opened
	err := call(ctx, socket, http.MethodPost, secretPath(name)+"/open", nil, &answer)
	return answer.Data, err
}

// RecoveryDigest is what the recovery key of a secret has to sign.
func RecoveryDigest(ctx context.Context, socket, name string) ([]byte, error) {
	var answer signed
	err := call(ctx, socket, http.MethodGet, secretPath(name)+"/digest", nil, &answer)
	return answer.Digest, err
}

// Recover opens a secret by its recovery key's signature.
func Recover(ctx context.Context, socket, name string, signature []byte) ([]byte, error) {
	var answer opened
	err := call(ctx, socket, http.MethodPost, secretPath(name)+"/recover", signed{Signature: signature}, &answer)
	return answer.Data, err
}

// ResetSecrets forgets all secrets and the chip that sealed them.
func ResetSecrets(ctx context.Context, socket string) error {
	var nothing json.RawMessage
	return call(ctx, socket, http.MethodDelete, pathSecrets, nil, &nothing)
}

// ListSecrets lists what is stored.
func ListSecrets(ctx context.Context, socket string) (list []Secret, err error) {
	err = call(ctx, socket, http.MethodGet, pathSecrets, nil, &list)
	return list, err
}

// RemoveSecret forgets a secret.
func RemoveSecret(ctx context.Context, socket, name string) error {
	var nothing json.RawMessage
	return call(ctx, socket, http.MethodDelete, secretPath(name), nil, &nothing)
}

func secretPath(name string) string { return pathSecrets + "/" + url.PathEscape(name) }
