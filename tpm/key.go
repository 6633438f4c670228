package tpm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm/core"
)

// Role says what a key may sign.
type Role int

const (
	// AK signs only what the chip itself made: quotes and certifications.
	AK Role = iota
	// Operational signs any SHA-256 digest: TLS handshakes, requests, receipts.
	Operational
)

// Key is an ECDSA P-256 key that lives in the chip. Safe for concurrent use.
type Key struct {
	t      *TPM
	obj    *core.Object // the owner goroutine's, as closed is; nil if it could not be loaded again
	closed bool
	role   Role
	public *ecdsa.PublicKey
	area   []byte // TPMT_PUBLIC
	name   []byte
	pem    []byte
}

// CreateKey makes a key under the storage key and loads it. It is fixed to this
// chip and never counts towards a lockout (noDA). Nothing is stored: keep PEM.
func (t *TPM) CreateKey(ctx context.Context, role Role) (*Key, error) {
	var key *Key
	err := t.Do(ctx, "create TPM key", func(c *Chip) error {
		parent, err := c.Storage()
		if err != nil {
			return err
		}
		obj, private, err := createLoaded(c, parent, signingTemplate(role))
		if err != nil {
			return err
		}
		key, err = t.newKey(obj, keyFile{parent: tpm2.TPMHandle(parent.Place), public: obj.Public(), private: private})
		return err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// createLoaded uses TPM2_CreateLoaded, or Create and Load where a chip (older than
// revision 1.38) lacks it.
func createLoaded(c *Chip, parent StorageKey, template tpm2.TPMTPublic) (*core.Object, tpm2.TPM2BPrivate, error) {
	var rsp *tpm2.CreateLoadedResponse
	err := c.Room(func() (err error) {
		rsp, err = tpm2.CreateLoaded{ParentHandle: password(parent.Handle), InPublic: tpm2.New2BTemplate(&template)}.Execute(c)
		return err
	})
	if errors.Is(err, tpm2.TPMRCCommandCode) {
		return createThenLoad(c, parent, template)
	}
	if err != nil {
		return nil, tpm2.TPM2BPrivate{}, err
	}
	obj, err := c.Keep(rsp.ObjectHandle, rsp.OutPublic, template)
	return obj, rsp.OutPrivate, err
}

func createThenLoad(c *Chip, parent StorageKey, template tpm2.TPMTPublic) (*core.Object, tpm2.TPM2BPrivate, error) {
	var rsp *tpm2.CreateResponse
	err := c.Room(func() (err error) {
		rsp, err = tpm2.Create{ParentHandle: password(parent.Handle), InPublic: tpm2.New2B(template)}.Execute(c)
		return err
	})
	if err != nil {
		return nil, tpm2.TPM2BPrivate{}, err
	}
	obj, err := load(c, parent, rsp.OutPublic, rsp.OutPrivate, template)
	return obj, rsp.OutPrivate, err
}

func load(c *Chip, parent StorageKey, public tpm2.TPM2BPublic, private tpm2.TPM2BPrivate, template tpm2.TPMTPublic) (*core.Object, error) {
	var rsp *tpm2.LoadResponse
	err := c.Room(func() (err error) {
		rsp, err = tpm2.Load{ParentHandle: password(parent.Handle), InPublic: public, InPrivate: private}.Execute(c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.Keep(rsp.ObjectHandle, public, template)
}

// password authorises the use of an object that has an empty password.
func password(h tpm2.NamedHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm2.PasswordAuth(nil)}
}

// newKey wraps a loaded object.
func (t *TPM) newKey(obj *core.Object, file keyFile) (*Key, error) {
	role, public, err := signingKey(file.public)
	if err != nil {
		return nil, err
	}
	pem, err := file.encode()
	if err != nil {
		return nil, err
	}
	return &Key{
		t: t, obj: obj, role: role, public: public,
		area: tpm2.Marshal(file.public), name: obj.Name(), pem: pem,
	}, nil
}

// use makes sure that the key is in the chip: one that the chip has forgotten is
// loaded again.
func (k *Key) use(c *Chip) (tpm2.NamedHandle, error) {
	if (k.obj == nil || c.Gone(k.obj)) && !k.closed {
		file, err := parseKeyFile(k.pem)
		if err != nil {
			return tpm2.NamedHandle{}, err
		}
		if k.obj, err = loadFile(c, file); err != nil {
			return tpm2.NamedHandle{}, err
		}
	}
	return c.Use(k.obj)
}

// signingKey checks that a public area is exactly that of an AK or operational key.
func signingKey(area tpm2.TPMTPublic) (Role, *ecdsa.PublicKey, error) {
	for _, role := range []Role{AK, Operational} {
		if !core.SameTemplate(area, signingTemplate(role)) {
			continue
		}
		public, err := tpm2.Pub(area)
		if err != nil {
			return 0, nil, err
		}
		key, ok := public.(*ecdsa.PublicKey)
		if !ok {
			return 0, nil, fmt.Errorf("read public key: %T is not ECDSA", public)
		}
		if _, err := key.ECDH(); err != nil { // on the curve?
			return 0, nil, fmt.Errorf("read public key: %w", err)
		}
		return role, key, nil
	}
	return 0, nil, errors.New("read public key: not one of the kinds of key that this program makes")
}

// Public is an *ecdsa.PublicKey on P-256.
func (k *Key) Public() crypto.PublicKey { return k.public }

// PEM is the key as a TSS2 PRIVATE KEY file: useless without this chip.
func (k *Key) PEM() []byte { return append([]byte(nil), k.pem...) }

// TPMPublic is the TPMT_PUBLIC (TPM 2.0 Part 2, 12.2.4).
func (k *Key) TPMPublic() []byte { return append([]byte(nil), k.area...) }

// Name is the key's Name: algorithm identifier and digest of TPMPublic (Part 1, 16).
func (k *Key) Name() []byte { return append([]byte(nil), k.name...) }

// Role tells what the key may sign.
func (k *Key) Role() Role { return k.role }

// Sign signs a SHA-256 digest; the result is ASN.1 (RFC 3279, 2.2.3). It sends one
// TPM command. An AK refuses: it signs only what the chip made.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.role != Operational {
		return nil, errors.New("sign digest: an attestation key signs only what the TPM made")
	}
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("sign digest: this key signs SHA-256 digests only")
	}
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	var signature []byte
	err := k.t.Do(ctx, "sign digest", func(c *Chip) error {
		handle, err := k.use(c)
		if err != nil {
			return err
		}
		// Scheme TPM_ALG_NULL, and a TPMT_TK_HASHCHECK of the null hierarchy.
		answer, err := direct(c, tpm2.TPMCCSign, append(sized(digest), 0, 0x10, 0x80, 0x24, 0x40, 0, 0, 7, 0, 0), handle)
		if err == nil {
			signature, err = asn1Signature(answer)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return signature, nil
}

func asn1Signature(answer []byte) ([]byte, error) {
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](answer)
	if err != nil {
		return nil, fmt.Errorf("read TPM signature: %w", err)
	}
	ecc, err := s.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("read TPM signature: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer),
	})
}

// Close removes the key from the chip; its file stays good. Repeating it is safe.
func (k *Key) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	return k.t.Do(ctx, "close TPM key", func(c *Chip) error {
		if k.obj != nil {
			c.Drop(k.obj)
		}
		k.closed = true
		return nil
	})
}

var _ crypto.Signer = (*Key)(nil)
