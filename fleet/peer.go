package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// IssuePeer makes key and certificate of a service that gateways meet beside the
// server, as a broker, in the folder out: NAME.key and NAME.pem (certificate and
// intermediate), and root.pem. The certificate is in the journal before it is
// written. An older pair is replaced.
func IssuePeer(ctx context.Context, s Settings, name string, hosts []string, life time.Duration, out string, now time.Time) error {
	if name == wire.FleetIdentity || name != filepath.Base(name) || len(hosts) == 0 {
		return errors.New("a peer has a name of its own, other than the fleet's client, and at least one host")
	}
	vault, err := s.Vault()
	if err != nil {
		return err
	}
	authority, err := vault.Open()
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key of %s: %w", name, err)
	}
	leaf, chain, err := authority.Issue(ca.Service, name, key.Public(), now, life, hosts...)
	if err != nil {
		return err
	}
	store, err := registry.OpenSQLite(filepath.Join(s.State, "registry.db"))
	if err != nil {
		return err
	}
	defer store.Close() // nothing is left to write
	if err := store.AddCertificate(ctx, registry.Certificate{
		Serial: leaf.SerialNumber.Text(16), Identity: name, Profile: string(ca.Service), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, IssuedAt: now, DER: leaf.Raw,
	}, ""); err != nil {
		return err
	}
	return writePeer(out, name, key, append([]*x509.Certificate{leaf}, chain...), authority.Anchors())
}

func writePeer(out, name string, key *ecdsa.PrivateKey, chain []*x509.Certificate, anchors []byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	var certificates bytes.Buffer
	for _, c := range chain {
		if err := pem.Encode(&certificates, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return err
		}
	}
	var disk fsx.FS
	return errors.Join(
		disk.MkdirAll(out, 0o700),
		disk.WriteFile(filepath.Join(out, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
		disk.WriteFile(filepath.Join(out, name+".pem"), certificates.Bytes(), 0o644),
		disk.WriteFile(filepath.Join(out, "root.pem"), anchors, 0o644))
}
