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
	obj    *object // the owner goroutine's, as closed is
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
	err := t.do(ctx, "create TPM key", func(o *op) error {
		parent, parentHandle, err := o.storage()
		if err != nil {
			return err
		}
		obj, private, err := o.createLoaded(parent, signingTemplate(role))
		if err != nil {
			return err
		}
		key, err = o.newKey(obj, keyFile{parent: parentHandle, public: obj.public, private: private})
		return err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// createLoaded uses TPM2_CreateLoaded, or Create and Load where a chip (older than
// revision 1.38) lacks it.
func (o *op) createLoaded(parent *object, template tpm2.TPMTPublic) (*object, tpm2.TPM2BPrivate, error) {
	handle, err := o.use(parent)
	if err != nil {
		return nil, tpm2.TPM2BPrivate{}, err
	}
	var rsp *tpm2.CreateLoadedResponse
	err = o.withRoom(func() (err error) {
		rsp, err = tpm2.CreateLoaded{ParentHandle: password(handle), InPublic: tpm2.New2BTemplate(&template)}.Execute(o)
		return err
	})
	if errors.Is(err, tpm2.TPMRCCommandCode) {
		return o.createThenLoad(handle, template)
	}
	if err != nil {
		return nil, tpm2.TPM2BPrivate{}, err
	}
	obj, err := o.adoptPublic(rsp.ObjectHandle, rsp.OutPublic, template)
	return obj, rsp.OutPrivate, err
}

func (o *op) createThenLoad(parent tpm2.NamedHandle, template tpm2.TPMTPublic) (*object, tpm2.TPM2BPrivate, error) {
	var rsp *tpm2.CreateResponse
	err := o.withRoom(func() (err error) {
		rsp, err = tpm2.Create{ParentHandle: password(parent), InPublic: tpm2.New2B(template)}.Execute(o)
		return err
	})
	if err != nil {
		return nil, tpm2.TPM2BPrivate{}, err
	}
	obj, err := o.load(parent, rsp.OutPublic, rsp.OutPrivate, template)
	return obj, rsp.OutPrivate, err
}

func (o *op) load(parent tpm2.NamedHandle, public tpm2.TPM2BPublic, private tpm2.TPM2BPrivate, template tpm2.TPMTPublic) (*object, error) {
	var rsp *tpm2.LoadResponse
	err := o.withRoom(func() (err error) {
		rsp, err = tpm2.Load{ParentHandle: password(parent), InPublic: public, InPrivate: private}.Execute(o)
		return err
	})
	if err != nil {
		return nil, err
	}
	return o.adoptPublic(rsp.ObjectHandle, public, template)
}

// newKey wraps a loaded object.
func (o *op) newKey(obj *object, file keyFile) (*Key, error) {
	role, public, err := signingKey(obj.public)
	if err != nil {
		return nil, err
	}
	pem, err := file.encode()
	if err != nil {
		return nil, err
	}
	return &Key{
		t: o.t, obj: obj, role: role, public: public,
		area: tpm2.Marshal(obj.public), name: obj.name.Buffer, pem: pem,
	}, nil
}

// signingKey checks that a public area is exactly that of an AK or operational key.
func signingKey(area tpm2.TPMTPublic) (Role, *ecdsa.PublicKey, error) {
	for _, role := range []Role{AK, Operational} {
		if !sameTemplate(area, signingTemplate(role)) {
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
	err := k.t.do(ctx, "sign digest", func(o *op) error {
		handle, err := o.useKey(k)
		if err != nil {
			return err
		}
		// Scheme TPM_ALG_NULL, and a TPMT_TK_HASHCHECK of the null hierarchy.
		answer, err := o.direct(tpm2.TPMCCSign, append(sized(digest), 0, 0x10, 0x80, 0x24, 0x40, 0, 0, 7, 0, 0), handle)
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
	return k.t.do(ctx, "close TPM key", func(o *op) error {
		if !k.obj.gone {
			o.drop(k.obj)
		}
		k.closed = true
		return nil
	})
}

var _ crypto.Signer = (*Key)(nil)
