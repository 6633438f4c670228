package core

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Object is a key that this connection can use: in the chip, saved outside, or
// persistent. It belongs to the owner goroutine: only a Chip may be asked about it.
type Object struct {
	handle tpm2.TPMHandle // 0 if not in the chip
	saved  *tpm2.TPMSContext
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
	used   uint64
	gone   bool // closed by its user, or the chip has forgotten it
	era    int  // in which it was loaded: see forgetAll
	fixed  bool // persistent: never flushed; but chips load a copy while it is used
	cheap  bool // derived again rather than saved

	assumed bool // an EK that should be at its handle, but was not looked at
}

// Public is the object's public area.
func (obj *Object) Public() tpm2.TPMTPublic { return obj.public }

// Name is the object's Name: what its public area says.
func (obj *Object) Name() []byte { return obj.name.Buffer }

// use makes sure that obj is in the chip and stays there during this operation.
func (o *op) use(obj *Object) (tpm2.NamedHandle, error) {
	if o.isGone(obj) {
		return tpm2.NamedHandle{}, Classify(ErrAbsent, "this key was closed", nil)
	}
	o.t.clock++
	obj.used = o.t.clock
	o.pin(obj)
	if obj.fixed {
		if err := o.makeRoom(0); err != nil {
			return tpm2.NamedHandle{}, err
		}
	}
	if obj.handle == 0 {
		if err := o.restore(obj); err != nil {
			return tpm2.NamedHandle{}, err
		}
	}
	return tpm2.NamedHandle{Handle: obj.handle, Name: obj.name}, nil
}

func (o *op) restore(obj *Object) error {
	var rsp *tpm2.ContextLoadResponse
	err := o.withRoom(func() (err error) {
		rsp, err = tpm2.ContextLoad{Context: *obj.saved}.Execute(o)
		return err
	})
	if errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCHierarchy) {
		return fmt.Errorf("%w: load context: %v", tpm2.TPMRCReferenceH0, err) // saved before the chip was cleared
	}
	if err != nil {
		return err
	}
	obj.handle = tpm2.TPMHandle(rsp.LoadedHandle.HandleValue())
	o.t.loaded = append(o.t.loaded, obj)
	return nil
}

// adopt takes over an object that a command just created in the chip.
func (o *op) adopt(h tpm2.TPMHandle, name tpm2.TPM2BName, public tpm2.TPMTPublic) *Object {
	o.t.clock++
	obj := &Object{handle: h, name: name, public: public, used: o.t.clock, era: o.t.era}
	o.t.loaded = append(o.t.loaded, obj)
	o.created = append(o.created, obj)
	o.pin(obj)
	return obj
}

// pin keeps obj in the chip until the operation ends.
func (o *op) pin(obj *Object) {
	if !slices.Contains(o.pinned, obj) {
		o.pinned = append(o.pinned, obj)
	}
}

func (o *op) unpin(obj *Object) {
	o.pinned = slices.DeleteFunc(o.pinned, func(other *Object) bool { return other == obj })
}

// withRoom runs a command that loads one object, after making room for it; if the
// chip is full nevertheless (others use it too), all that can go goes, once.
func (o *op) withRoom(command func() error) error {
	if err := o.makeRoom(1); err != nil {
		return err
	}
	err := command()
	if !errors.Is(err, tpm2.TPMRCObjectMemory) {
		return err
	}
	for o.evictOldest() == nil {
	}
	return command()
}

// makeRoom leaves space for so many objects more, beside those loaded and the
// copies of persistent ones that this operation uses.
func (o *op) makeRoom(more int) error {
	for {
		copies := 0
		for _, obj := range o.pinned {
			if obj.fixed {
				copies++
			}
		}
		if len(o.t.loaded)+copies+more <= maxLoaded {
			return nil
		}
		if err := o.evictOldest(); err != nil {
			return err
		}
	}
}

// evictOldest saves the object that was not used for longest and flushes it.
func (o *op) evictOldest() error {
	var oldest *Object
	for _, obj := range o.t.loaded {
		if !slices.Contains(o.pinned, obj) && (oldest == nil || obj.used < oldest.used) {
			oldest = obj
		}
	}
	if oldest == nil {
		return Classify(ErrBusy, "one operation needs more objects than a chip holds", nil)
	}
	if oldest.cheap {
		o.drop(oldest)
		return nil
	}
	if oldest.saved == nil {
		// An object's context may be loaded any number of times until the chip is
		// reset (TPM 2.0 Part 1, 30.3.1): saved once, it need not be saved again.
		rsp, err := tpm2.ContextSave{SaveHandle: oldest.handle}.Execute(o)
		if err != nil {
			return err
		}
		oldest.saved = &rsp.Context
	}
	if err := o.flush(oldest.handle); err != nil && !errors.Is(err, tpm2.TPMRCHandle) { // gone already: the chip was cleared
		return err
	}
	o.forget(oldest)
	return nil
}

func (o *op) forget(obj *Object) {
	obj.handle = 0
	o.t.loaded = slices.DeleteFunc(o.t.loaded, func(other *Object) bool { return other == obj })
}

// forgetAll begins anew with a chip that was cleared or reset meanwhile.
func (o *op) forgetAll() {
	for len(o.t.loaded) > 0 {
		o.drop(o.t.loaded[0])
	}
	o.t.era++
	o.t.persistent, o.t.places = nil, nil
	clear(o.t.primaries)
}

func (o *op) isGone(obj *Object) bool { return obj.gone || !obj.fixed && obj.era != o.t.era }

// drop flushes an object for good.
func (o *op) drop(obj *Object) {
	obj.gone = true
	if obj.handle != 0 && !obj.fixed {
		_ = o.cleanly(func() error { return o.flush(obj.handle) })
	}
	o.forget(obj)
	for key, primary := range o.t.primaries {
		if primary == obj {
			delete(o.t.primaries, key)
		}
	}
}
