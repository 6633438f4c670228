package core

import (
	"bytes"
	"context"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Chip is the TPM for the length of one operation: its commands follow each other
// without another caller's in between. It is what the other packages build on. Valid
// until the function that got it returns.
type Chip struct {
	o     *op
	temps []*Object
}

// StorageKey is the key under which this program's files are made.
type StorageKey struct {
	Handle tpm2.NamedHandle
	Public tpm2.TPMTPublic
	Place  uint32 // what a file names as its parent: a persistent handle, or the owner hierarchy
}

// Do runs fn as one operation. What fn loaded is flushed when it returns. An error
// that has a method Explained() is passed on; others get their class. After an error
// nothing that fn writes may be read or written: it may still run, if ctx has ended.
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

// Keep takes over an object that a command just loaded, for later operations, too.
// It is flushed if the operation fails, or if the chip made another than template.
func (c *Chip) Keep(h tpm2.TPMHandle, out tpm2.TPM2BPublic, template tpm2.TPMTPublic) (*Object, error) {
	return c.o.adoptPublic(h, out, template)
}

// Use makes sure that an object is in the chip and stays there during this operation.
func (c *Chip) Use(obj *Object) (tpm2.NamedHandle, error) { return c.o.use(obj) }

// Gone tells whether the chip has forgotten an object, or it was dropped.
func (c *Chip) Gone(obj *Object) bool { return c.o.isGone(obj) }

// Drop removes an object from the chip. Repeating it is safe.
func (c *Chip) Drop(obj *Object) {
	if !obj.gone {
		c.o.drop(obj)
	}
}

// Flush removes a session, even if the caller's context has ended. The null handle
// of a session that was never opened is passed over.
func (c *Chip) Flush(h tpm2.TPMHandle) {
	if h != tpm2.TPMRHNull && h != tpm2.TPMRSPW {
		_ = c.o.cleanly(func() error { return c.o.flush(h) })
	}
}

// Handles lists the handles that the chip has in a range, ends included.
func (c *Chip) Handles(first, last tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	return c.o.handles(first, last)
}

// Persistent lists the chip's persistent objects, as they were when it was first asked.
func (c *Chip) Persistent() ([]tpm2.TPMHandle, error) {
	_, err := c.o.hasPersistent(HandleSRK)
	return c.o.t.persistent, err
}

// ReadIndex reads a whole NV index with its own, empty password, believing the bus.
func (c *Chip) ReadIndex(index tpm2.TPMHandle) ([]byte, error) { return c.o.readNV(index) }

// Storage is the storage key for new objects.
func (c *Chip) Storage() (StorageKey, error) {
	obj, place, err := c.o.storage()
	if err != nil {
		return StorageKey{}, err
	}
	return c.storageKey(obj, place)
}

// Parents tries the storage keys that may have wrapped what is in a file, until one
// does: the persistent one if that is the place that the file names, then the owner's
// primary, which it may have been.
func (c *Chip) Parents(place uint32, try func(StorageKey) (done bool, err error)) error {
	if tpm2.TPMHandle(place) == HandleSRK {
		obj, err := c.o.persistentSRK()
		if err != nil {
			return err
		}
		if obj != nil {
			if done, err := c.try(obj, HandleSRK, try); done || err != nil {
				return err
			}
			c.o.unpin(obj)
		}
	}
	obj, err := c.o.primary(tpm2.TPMRHOwner, srkTemplate())
	if err == nil {
		_, err = c.try(obj, tpm2.TPMRHOwner, try)
	}
	return err
}

func (c *Chip) try(obj *Object, place tpm2.TPMHandle, try func(StorageKey) (bool, error)) (bool, error) {
	key, err := c.storageKey(obj, place)
	if err != nil {
		return false, err
	}
	return try(key)
}

// StorageNamed is the storage key with this Name: the one at place, or the owner's
// primary, derived again. ErrReplaced if the chip has no such key.
func (c *Chip) StorageNamed(name []byte, place uint32) (StorageKey, error) {
	found := StorageKey{}
	err := c.Parents(place, func(key StorageKey) (bool, error) {
		if !bytes.Equal(key.Handle.Name.Buffer, name) {
			return false, nil
		}
		found = key
		return true, nil
	})
	if err == nil && found.Handle.Handle == 0 {
		err = Classify(ErrReplaced, "the TPM was cleared or exchanged: what was sealed by it is lost", nil)
	}
	return found, err
}

func (c *Chip) storageKey(obj *Object, place tpm2.TPMHandle) (StorageKey, error) {
	handle, err := c.o.use(obj)
	return StorageKey{Handle: handle, Public: obj.public, Place: uint32(place)}, err
}

var _ transport.TPM = (*Chip)(nil)
