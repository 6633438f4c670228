// Package identity holds who the device is: its attestation key, its operational
// key and certificate, and the exchanges with the fleet that obtain, renew and
// recover them.
//
// Its promise: the device is never without a way back. A new pair is proven in a
// full handshake before the old one is dropped, every step survives a power cut,
// and whatever was lost but the TPM itself is made again from the TPM. Where there
// is no TPM, and the owner allows that, a first key in a file stands for it; a device
// that had a TPM never goes on without one.
package identity

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/tpm"
)

// Config of an Identity. All fields but TPM, Token, Hostname, Counted and After are
// required.
type Config struct {
	Dir          string // identity/ in the state folder
	FS           *fsx.FS
	TPM          *tpm.TPM // nil: there is none, and SoftwareKeys says that keys lie in files
	SoftwareKeys bool
	Fleet        func() *policy.Fleet // the pinned trust/fleet.json
	Clock        Clock
	Model        string
	Hostname     string
	Software     string
	Token        string // one-time enrolment token
	// Collect answers a challenge with evidence that claims these keys (SPKI hashes).
	Collect func(ctx context.Context, c wire.Challenge, keys ...string) (attest.Evidence, error)
	// Verdict is told every verdict that an exchange brought.
	Verdict func(wire.Verdict)
	// Changed is told of every new credential, after it is durable and proven.
	Changed func(Credential)
	// Event records what an operator should learn of.
	Event func(name, text string)
	Log   *slog.Logger

	// The process's own clock, which nobody sets; nil: the system's.
	Counted func() time.Duration                 // since any moment before
	After   func(time.Duration) <-chan time.Time // as time.After
}

// Clock tells the time and whether it may be believed (agent/clock).
type Clock interface {
	Now() (now time.Time, trusted bool)
	Floor() time.Time
}

// Identity is safe for concurrent use.
type Identity struct {
	cfg     Config
	store   store
	keys    keys
	kick    chan string
	anyone  *anonymous
	started time.Duration // by cfg.Counted

	exchange  chan struct{} // holds a token: one exchange with the fleet at a time
	retired   Key           // the key before current; under exchange
	unproven  *Credential   // what a cut kept from being put into use; under exchange
	unstarted Key           // the key in nextFile that has no certificate yet; under exchange
	certified uint64        // TPM's clock when that key was certified; under exchange
	verdict   wire.Verdict  // the last one that an exchange here brought; under exchange
	spent     bool          // the configured token is of no more use; under exchange
	newToken  chan struct{} // wakes an enrolment that waits for an operator

	seen    atomic.Uint64 // TPM's clock when it signed last
	mu      sync.Mutex
	current *Credential
	adopted time.Duration // when current came into use, by cfg.Counted; 0 if it was loaded
	records []Record      // the newest first; replaced, never changed
	phase   string        // what Run is doing, for people
	last    error         // of the last exchange
}

// Key is an operational key, in the TPM or in software.
type Key interface {
	crypto.Signer
	PEM() []byte // as it is stored
	Close() error
}

// keys is where a device's keys are made and live, and what it proves itself by.
type keys interface {
	name() []byte // what the device id derives from
	by() string   // what it proves itself by, for people
	create(ctx context.Context) (Key, error)
	load(ctx context.Context, pem []byte) (Key, error)
	// certify vouches for the key of a CSR.
	certify(ctx context.Context, key Key, csr []byte) (wire.KeyProof, error)
	// introduce opens an enrolment or a recovery, and proves the device itself.
	introduce(ctx context.Context, csr []byte, proof wire.KeyProof) (ticket request, err error)
}

// Credential is an operational key with its certificate. It does not change.
type Credential struct {
	Key      Key
	Chain    []*x509.Certificate // leaf first
	Identity string              // subject of the leaf: a device or quarantine id
	tls      *clientTLS
}

// Leaf is the device's own certificate.
func (c *Credential) Leaf() *x509.Certificate { return c.Chain[0] }

// Serial is the leaf's serial number in lower-case hex.
func (c *Credential) Serial() string { return c.Leaf().SerialNumber.Text(16) }

// SPKI is the SHA-256 (hex) of the leaf's SubjectPublicKeyInfo.
func (c *Credential) SPKI() string { return SPKI(c.Leaf()) }

// SPKI is the SHA-256 (hex) of a certificate's SubjectPublicKeyInfo.
func SPKI(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// keyHash is the SPKI hash of a key that has no certificate yet; "" if it has no
// such form, which no verifier accepts.
func keyHash(key Key) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// New loads what Dir holds and makes what is missing: the choice of endorsement key
// and the attestation key in the TPM, or the first key. It does not touch the network.
func New(ctx context.Context, c Config) (*Identity, error) {
	if c.Dir == "" || c.FS == nil || c.SoftwareKeys != (c.TPM == nil) || c.Fleet == nil || c.Clock == nil || c.Model == "" || c.Software == "" ||
		c.Collect == nil || c.Verdict == nil || c.Changed == nil || c.Event == nil || c.Log == nil {
		return nil, errors.New("identity: incomplete configuration")
	}
	if c.Counted == nil {
		began := time.Now()
		c.Counted = func() time.Duration { return time.Since(began) }
	}
	if c.After == nil {
		c.After = time.After
	}
	i := &Identity{cfg: c, store: store{fs: c.FS, dir: c.Dir, private: c.SoftwareKeys}, kick: make(chan string, 1), exchange: make(chan struct{}, 1), newToken: make(chan struct{}, 1), phase: "starting", started: c.Counted()}
	if err := c.FS.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make identity folder: %w", err)
	}
	newAK, err := i.openKeys(ctx)
	if err != nil {
		return nil, err
	}
	i.anyone = newAnonymous(c.Fleet, c.Clock)
	i.records = i.store.readHistory()
	i.loadCredential(ctx)
	i.recallCredential()
	if _, ok := i.Current(); ok && newAK {
		i.Kick("the attestation key is a new one")
	}
	return i, nil
}

// openKeys says whether there is an AK that the fleet has not seen yet.
func (i *Identity) openKeys(ctx context.Context) (newAK bool, err error) {
	if i.cfg.SoftwareKeys {
		f := &files{id: i}
		i.keys = f
		return false, f.open()
	}
	c := &chip{id: i}
	i.keys = c
	if err := c.loadEK(ctx); err != nil {
		return false, err
	}
	err = c.loadAK(ctx)
	return c.newAK, err
}

// Device is the device id: it depends on the fleet and on EK or first key alone.
func (i *Identity) Device() string { return wire.DeviceID(i.cfg.Fleet().Fleet, i.keys.name()) }

// AK is the attestation key, nil without a TPM.
func (i *Identity) AK() *tpm.Key {
	if c, ok := i.keys.(*chip); ok {
		return c.ak
	}
	return nil
}

// First is the first key of a device without a TPM, else nil.
func (i *Identity) First() crypto.Signer {
	if f, ok := i.keys.(*files); ok {
		return f.first
	}
	return nil
}

// Current returns the credential in use; ok is false while there is none.
func (i *Identity) Current() (c Credential, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == nil {
		return Credential{}, false
	}
	return *i.current, true
}

// Keys lists the SPKI hashes of the operational keys, for the claims of a quote.
func (i *Identity) Keys() []string {
	if c, ok := i.Current(); ok {
		return []string{c.SPKI()}
	}
	return nil
}

// AnchorsChanged asks for another certificate if the fleet's anchors do not know
// the one in use any more.
func (i *Identity) AnchorsChanged() {
	if c, ok := i.Current(); ok && verifyChain(c.Chain, i.cfg.Fleet()) != nil {
		i.Kick("the fleet has other anchors")
	}
}

// Status says in a few words what the identity is waiting for, and the last
// error, nil if the last exchange went well.
func (i *Identity) Status() (phase string, last error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.phase, i.last
}

// SignPayload makes the device's answer to a command: payload is a
// wire.ReceiptBody in JSON.
func (i *Identity) SignPayload(payload []byte) (wire.Receipt, error) {
	c, ok := i.Current()
	if !ok {
		return wire.Receipt{}, errors.New("sign receipt: the device has no operational key yet")
	}
	digest := sha256.Sum256(wire.ReceiptBytes(payload))
	signature, err := c.Key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return wire.Receipt{}, fmt.Errorf("sign receipt: %w", err)
	}
	return wire.Receipt{Payload: payload, Serial: c.Serial(), Signature: signature}, nil
}

// loadCredential loads what is in use, and what a cut kept from being put into
// use. What can't be loaded is recovered through the fleet, so it is an event and
// no error.
func (i *Identity) loadCredential(ctx context.Context) {
	i.current = i.loadPair(ctx, currentFile)
	i.unproven = i.loadPair(ctx, nextFile)
	switch {
	case i.current == nil:
		i.current = i.unproven
	case i.unproven != nil && i.unproven.Serial() == i.current.Serial(): // only its removal is missing
		i.giveUp()
	}
}

// loadPair returns nil if the file holds no whole pair that this device can use.
func (i *Identity) loadPair(ctx context.Context, name string) *Credential {
	found, err := i.store.readPair(name)
	if err != nil {
		i.cfg.Event("identity.credential-lost", "the stored credential is damaged: "+err.Error())
		return nil
	}
	if len(found.chain) == 0 {
		if len(found.key) > 0 && name == currentFile {
			i.cfg.Event("identity.credential-lost", "the stored credential has no certificate")
		}
		return nil
	}
	key, err := i.keys.load(ctx, found.key)
	if err != nil {
		i.cfg.Event("identity.credential-lost", "the operational key can't be loaded: "+err.Error())
		return nil
	}
	c, err := i.credential(key, found.chain)
	if err != nil {
		i.cfg.Event("identity.credential-lost", err.Error())
		i.unload(key)
		return nil
	}
	return c
}

// unload takes a key out of the TPM. One that stays costs a slot until restart.
func (i *Identity) unload(key Key) {
	if err := key.Close(); err != nil {
		i.cfg.Log.Warn("unload key", "error", err)
	}
}
