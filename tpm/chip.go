package tpm

import (
	"bytes"
	"context"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Chip is the TPM for the length of one operation: its commands follow each other
// without another caller's in between. It is what the packages below this one
// build on. Valid until the function that got it returns.
type Chip struct {
	o     *op
	temps []*object
}

// StorageKey is the key under which this program's files are made.
type StorageKey struct {
	Handle tpm2.NamedHandle
	Public tpm2.TPMTPublic
	Place  uint32 // what a file names as its parent: a persistent handle, or the owner hierarchy
}

// Do runs fn as one operation. What fn loaded is flushed when it returns. An error
// that has a method Explained() is passed on; others get their class.
func (t *TPM) Do(ctx context.Context, what string, fn func(*Chip) error) error {
	return t.do(ctx, what, func(o *op) error {
		c := &Chip{o: o}
		defer func() {
			for _, obj := range c.temps {
				o.drop(obj)
			}
		}()
		return fn(c)
	})
}

// Send implements transport.TPM.
func (c *Chip) Send(command []byte) ([]byte, error) { return c.o.Send(command) }

// Room runs a command that needs space for one object, after making it. TPM2_Create
// does, although it loads nothing.
func (c *Chip) Room(command func() error) error { return c.o.withRoom(command) }

// Load runs a command that loads one object, after making room for it. The object
// is flushed when the operation ends.
func (c *Chip) Load(command func() (tpm2.TPMHandle, error)) (tpm2.TPMHandle, error) {
	var h tpm2.TPMHandle
	err := c.Room(func() (err error) {
		h, err = command()
		return err
	})
	if err != nil {
		return 0, err
	}
	c.temps = append(c.temps, c.o.adopt(h, tpm2.TPM2BName{}, tpm2.TPMTPublic{}))
	return h, nil
}

// Flush removes a session, even if the caller's context has ended. The null handle
// of a session that was never opened is passed over.
func (c *Chip) Flush(h tpm2.TPMHandle) {
	if h != tpm2.TPMRHNull && h != tpm2.TPMRSPW {
		_ = c.o.cleanly(func() error { return c.o.flush(h) })
	}
}

// PCRs reads PCRs of the SHA-256 bank.
func (c *Chip) PCRs(pcrs []int) (map[int][32]byte, error) { return c.o.readPCRs(pcrs) }

// Storage is the storage key for new objects.
func (c *Chip) Storage() (StorageKey, error) {
	obj, place, err := c.o.storage()
	if err != nil {
		return StorageKey{}, err
	}
	return c.storageKey(obj, place)
}

// StorageNamed is the storage key with this Name: the one at place, or the owner's
// primary, derived again. ErrReplaced if the chip has no such key.
func (c *Chip) StorageNamed(name []byte, place uint32) (StorageKey, error) {
	if tpm2.TPMHandle(place) == handleSRK {
		obj, err := c.o.persistentSRK()
		if err != nil {
			return StorageKey{}, err
		}
		if obj != nil && bytes.Equal(obj.name.Buffer, name) {
			return c.storageKey(obj, handleSRK)
		}
	}
	obj, err := c.o.primary(tpm2.TPMRHOwner, srkTemplate())
	if err != nil {
		return StorageKey{}, err
	}
	if !bytes.Equal(obj.name.Buffer, name) {
		return StorageKey{}, classify(ErrReplaced, "the TPM was cleared or exchanged: what was sealed by it is lost", nil)
	}
	return c.storageKey(obj, tpm2.TPMRHOwner)
}

func (c *Chip) storageKey(obj *object, place tpm2.TPMHandle) (StorageKey, error) {
	handle, err := c.o.use(obj)
	return StorageKey{Handle: handle, Public: obj.public, Place: uint32(place)}, err
}

var _ transport.TPM = (*Chip)(nil)
