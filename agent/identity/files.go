package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/p256key"
	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// firstFile is the first key of a device without a TPM, PKCS #8: its id is made of
// it, for life, and by it the device proves itself.
const firstFile = "first.pem"

// errHadTPM keeps a device that had a TPM from going on without one.
var errHadTPM = errors.New("this gateway enrolled with a TPM, which it does not see now; software keys never take its place")

// files are the keys of a device without a TPM.
type files struct {
	id     *Identity
	first  *fileKey
	public []byte // SubjectPublicKeyInfo of first
}

func (f *files) name() []byte { return softkey.Name(f.public) }
func (f *files) by() string   { return "its first key" }

// open loads the first key, or makes it. One that is lost can't be had again: then
// this is another device, which its fleet does not know yet.
func (f *files) open() error {
	for _, name := range []string{ekFile, akFile} {
		if _, err := os.Lstat(f.id.store.path(name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w\nhint: `gatewarden doctor` says what the TPM lacks; to give it up and enrol as another gateway, move %s away", errHadTPM, f.id.cfg.Dir)
		}
	}
	data, err := f.id.store.readKey(firstFile, maxKeyFile)
	if err == nil {
		f.first, err = parseKey(data)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsx.ErrDamaged) {
		err = f.begin(err)
	}
	if err == nil {
		f.public, err = x509.MarshalPKIXPublicKey(f.first.Public())
	}
	if err != nil {
		return fmt.Errorf("open first key: %w", err)
	}
	return nil
}

// begin makes the first key. A device that had one says what became of it.
func (f *files) begin(cause error) (err error) {
	if f.first, err = newFileKey(); err != nil {
		return err
	}
	if _, err := os.Lstat(f.id.store.path(historyFile)); err == nil || errors.Is(cause, fsx.ErrDamaged) {
		f.id.cfg.Event("identity.first-key-lost", "the first key can't be used any more; the device enrols as another one: "+cause.Error())
	}
	return f.id.store.fs.WriteFile(f.id.store.path(firstFile), f.first.pem, 0o600)
}

func (f *files) create(context.Context) (Key, error) {
	key, err := newFileKey()
	if err != nil { // a nil *fileKey would be a Key that is not nil
		return nil, err
	}
	return key, nil
}

func (f *files) load(_ context.Context, pem []byte) (Key, error) {
	key, err := parseKey(pem)
	if err != nil {
		return nil, err
	}
	return key, nil
}

func (f *files) certify(_ context.Context, _ Key, csr []byte) (proof wire.KeyProof, err error) {
	proof.Signature, err = f.sign(softkey.Certify(f.id.cfg.Fleet().Fleet, csr))
	return proof, err
}

func (f *files) introduce(ctx context.Context, csr []byte, proof wire.KeyProof) (request, error) {
	ask := softkey.Request{
		Version: 1, FirstKey: f.public, CSR: csr, Proof: proof.Signature,
		Model: f.id.cfg.Model, Hostname: f.id.cfg.Hostname, Software: f.id.cfg.Software, Token: f.id.token(),
	}
	var challenge softkey.Challenge
	fits := func() error { return f.id.isForUs(challenge.Version, challenge.Device) }
	if err := f.id.postJSON(ctx, request{client: f.id.anyone.http, path: softkey.PathEnroll}, ask, &challenge, fits); err != nil {
		return request{}, f.id.tokenJudged(err)
	}
	answer, err := f.sign(softkey.Admit(f.id.cfg.Fleet().Fleet, challenge.Ticket, challenge.Nonce))
	if err != nil {
		return request{}, fmt.Errorf("answer the fleet's challenge: %w", err)
	}
	return request{client: f.id.anyone.http, user: challenge.Ticket, secret: hex.EncodeToString(answer)}, nil
}

func (f *files) sign(digest []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, f.first.key, digest)
}

// fileKey is a P-256 key that lies in a file.
type fileKey struct {
	key *ecdsa.PrivateKey
	pem []byte
}

func (k *fileKey) Public() crypto.PublicKey { return k.key.Public() }

func (k *fileKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.key.Sign(rand, digest, opts)
}

func (k *fileKey) PEM() []byte { return k.pem }

// Close has nothing to do: nothing but memory holds the key.
func (k *fileKey) Close() error { return nil }

func newFileKey() (*fileKey, error) {
	key, der, err := p256key.New()
	if err != nil {
		return nil, err
	}
	return &fileKey{key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}, nil
}

// parseKey takes all but one P-256 key for damage.
func parseKey(data []byte) (*fileKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("there is no private key in it: %w", fsx.ErrDamaged)
	}
	key, err := p256key.Parse(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, fsx.ErrDamaged)
	}
	return &fileKey{key, data}, nil
}

// checkPrivate refuses a private key that others could have read, or put there.
func checkPrivate(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && (info.IsDir() || info.Mode().IsRegular()) && int(stat.Uid) == os.Geteuid() && info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return fmt.Errorf("%s (%s) must be the agent's own and nobody else's: a file of mode 0600 in a folder of mode 0700\nhint: if others could read the key, remove it: the gateway makes another, and enrols as another; else set owner and mode right", path, info.Mode())
}

var _ keys = (*files)(nil)
