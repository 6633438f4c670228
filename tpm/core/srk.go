package core

import (
	"errors"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// storage finds the storage key under which new keys are made: the persistent one
// if it is the standard one, else the owner's primary, derived again. The chip's
// persistent handles are never written. The handle is what a key file names.
func (o *op) storage() (*Object, tpm2.TPMHandle, error) {
	obj, err := o.persistentSRK()
	if err != nil {
		return nil, 0, err
	}
	if obj != nil {
		return obj, HandleSRK, nil
	}
	obj, err = o.primary(tpm2.TPMRHOwner, srkTemplate())
	return obj, tpm2.TPMRHOwner, err
}

// persistentSRK is nil if the chip has none that is standard. What was found, or
// not found, holds for the connection.
func (o *op) persistentSRK() (*Object, error) {
	const key = "persistent SRK"
	if obj, known := o.t.primaries[key]; known {
		return obj, nil
	}
	there, err := o.hasPersistent(HandleSRK)
	if err != nil {
		return nil, err
	}
	var obj *Object
	if there {
		if obj, err = o.readPersistent(HandleSRK); err != nil {
			return nil, err
		}
	}
	if obj != nil && !isStandardSRK(obj.public) {
		obj = nil
	}
	o.t.primaries[key] = obj
	return obj, nil
}

// hasPersistent asks the chip for its persistent handles, once per connection: one
// command that answers for SRK and EK.
func (o *op) hasPersistent(h tpm2.TPMHandle) (bool, error) {
	if o.t.persistent == nil {
		list, err := o.handles(persistentFirst, persistentLast)
		if err != nil {
			return false, err
		}
		o.t.persistent = append([]tpm2.TPMHandle{}, list...)
	}
	return slices.Contains(o.t.persistent, h), nil
}

// readPersistent is nil if nothing is at the handle.
func (o *op) readPersistent(h tpm2.TPMHandle) (*Object, error) {
	var rsp *tpm2.ReadPublicResponse
	err := o.withRoom(func() (err error) { // chips load a copy of it
		rsp, err = tpm2.ReadPublic{ObjectHandle: h}.Execute(o)
		return err
	})
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, err
	}
	// The Name is computed here, not taken: a key is what its public area says.
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, err
	}
	return &Object{handle: h, name: *name, public: *public, fixed: true}, nil
}

// primary derives a primary key of a hierarchy, once per connection.
func (o *op) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (*Object, error) {
	key := string(tpm2.Marshal(template))
	if obj := o.t.primaries[key]; obj != nil {
		o.pin(obj)
		return obj, nil
	}
	var rsp *tpm2.CreatePrimaryResponse
	err := o.withRoom(func() (err error) {
		auth := o.hierarchy(hierarchy)
		defer o.flushSession(auth.Auth)
		rsp, err = tpm2.CreatePrimary{PrimaryHandle: auth, InPublic: tpm2.New2B(template)}.Execute(o)
		return err
	})
	if err != nil {
		return nil, err
	}
	obj, err := o.adoptPublic(rsp.ObjectHandle, rsp.OutPublic, template)
	if err != nil {
		return nil, err
	}
	// Storage keys are elliptic: quick to derive, and seldom needed.
	obj.cheap = hierarchy == tpm2.TPMRHOwner
	o.t.primaries[key] = obj
	return obj, nil
}

// adoptPublic takes over a new object after checking that the chip made what was
// asked for.
func (o *op) adoptPublic(h tpm2.TPMHandle, out tpm2.TPM2BPublic, template tpm2.TPMTPublic) (*Object, error) {
	obj := o.adopt(h, tpm2.TPM2BName{}, tpm2.TPMTPublic{})
	public, err := out.Contents()
	if err != nil {
		return nil, err
	}
	if !SameTemplate(*public, template) {
		return nil, Classify(ErrDamaged, "the chip made another key than the one asked for", nil)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, err
	}
	obj.public, obj.name = *public, *name
	return obj, nil
}
