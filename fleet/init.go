package fleet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/ear"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
)

const (
	messageKeyFile = "message.key" // ed25519, PKCS #8 PEM
	resultKeys     = "results"     // folder of the keys that sign attestation results
)

const stateHint = "\nhint: `state` in fleet.toml must be a folder that this user may write"

// Init makes the CA and the message key of a new fleet, and trust/fleet.json,
// which is what a device is given at install. It refuses to touch a fleet that
// exists.
func Init(s Settings, now time.Time) error {
	files := &fsx.FS{}
	switch _, err := os.Stat(filepath.Join(s.State, messageKeyFile)); {
	case err == nil:
		return fmt.Errorf("%s holds a fleet already: nothing was changed", s.State)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for an existing fleet: %w%s", err, stateHint)
	}
	if err := files.MkdirAll(filepath.Join(s.State, "trust"), 0o750); err != nil {
		return fmt.Errorf("make state folder: %w%s", err, stateHint)
	}
	authority, err := initCA(s, now)
	if err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make message key: %w", err)
	}
	document := policy.Fleet{
		Version: 1, Issued: now.UTC(), Fleet: s.Fleet, API: s.Public.API, Broker: s.Public.MQTT,
		Anchors: []string{string(authority.Anchors())}, MessageKeys: [][]byte{public},
	}
	if err := files.WriteJSON(filepath.Join(s.State, "trust", "fleet.json"), document, 0o644); err != nil {
		return fmt.Errorf("write trust/fleet.json: %w", err)
	}
	if _, err := ear.OpenKeys(files, filepath.Join(s.State, resultKeys), now); err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("encode message key: %w", err)
	}
	// Last: its presence says that the fleet is complete.
	return files.WriteFile(filepath.Join(s.State, messageKeyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// initCA makes the CA, or takes the one that `ca init` made.
func initCA(s Settings, now time.Time) (*ca.CA, error) {
	vault, err := s.Vault()
	if err != nil {
		return nil, err
	}
	if err := vault.Init(s.Fleet, now); err != nil && !errors.Is(err, ca.ErrExists) {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	authority, err := vault.Open()
	if err == nil && authority.Fleet() != s.Fleet {
		err = fmt.Errorf("it is for the fleet %q, not %q", authority.Fleet(), s.Fleet)
	}
	if err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	return authority, nil
}

func readMessageKey(state string) (ed25519.PrivateKey, error) {
	path := filepath.Join(state, messageKeyFile)
	raw, err := (&fsx.FS{}).ReadFile(path, 4<<10)
	if err != nil {
		return nil, fmt.Errorf("read message key: %w\nhint: gatewarden-fleet init makes a new fleet", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds no ed25519 key", path)
	}
	return private, nil
}
