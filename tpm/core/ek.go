package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// EK is an endorsement key: the identity that the chip's maker vouches for.
type EK struct {
	Kind        string   // "ecc-p256", "rsa2048" or "ecc-p384"
	Certificate []byte   // DER without the padding that some makers append; nil if the chip has none
	Chain       [][]byte // DER of the maker's CA certificates, as far as the chip holds them
	Public      []byte   // TPMT_PUBLIC
	Name        []byte   // algorithm identifier and digest of Public
}

// EK finds the endorsement key of a kind; "" chooses the first with a certificate
// of P-256, RSA 2048 and P-384, else RSA 2048 without one. It is made by the template
// that the maker left in the chip, or by the TCG's where there is none.
// Source: TCG EK Credential Profile 2.5, 2.2.1.4, 2.2.1.5 and annex B.
func (t *TPM) EK(ctx context.Context, kind string) (*EK, error) {
	if kind != "" && !slices.ContainsFunc(ekPlaces(), func(p ekPlace) bool { return p.kind == kind }) {
		return nil, fmt.Errorf("find EK: no kind %q", kind)
	}
	var ek *EK
	err := t.do(ctx, "find EK", func(o *op) (err error) {
		ek, err = o.findEK(kind)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ek, nil
}

func (o *op) findEK(kind string) (*EK, error) {
	indexes, err := o.findPlaces()
	if err != nil {
		return nil, err
	}
	place, certificate, err := o.findCertificate(kind, indexes)
	if err != nil {
		return nil, err
	}
	obj, err := o.ekObject(place, certificate)
	if err != nil {
		return nil, err
	}
	ek := &EK{Kind: place.kind, Certificate: certificate, Public: tpm2.Marshal(obj.public), Name: obj.name.Buffer}
	if certificate != nil {
		ek.Chain, err = o.readChain(indexes)
	}
	return ek, err
}

// findCertificate chooses the place, and reads the certificate if there is one.
func (o *op) findCertificate(kind string, indexes []tpm2.TPMHandle) (ekPlace, []byte, error) {
	var fallback *ekPlace
	for _, place := range o.t.places {
		if kind != "" && kind != place.kind {
			continue
		}
		if fallback == nil && (kind != "" || place.kind == "rsa2048") {
			fallback = &place
		}
		if !slices.Contains(indexes, place.index) {
			continue
		}
		data, err := o.readNV(place.index)
		if errors.Is(err, tpm2.TPMRCNVUninitialized) {
			continue // defined at the factory, never written
		}
		if err != nil {
			return ekPlace{}, nil, err
		}
		if certificates := splitDER(data); len(certificates) != 0 {
			return place, certificates[0], nil
		}
	}
	return *fallback, nil, nil
}

// readChain reads the CA certificates that the maker left, one after the other
// over one or more indexes.
func (o *op) readChain(indexes []tpm2.TPMHandle) ([][]byte, error) {
	var all []byte
	for _, index := range indexes {
		if index < nvChainFirst || index > nvChainLast || len(all) > maxNVIndex {
			continue
		}
		data, err := o.readNV(index)
		if err != nil {
			return nil, err
		}
		all = append(all, data...)
	}
	chain := splitDER(all)
	return chain[:min(len(chain), maxChainCerts)], nil
}

// ekObject gets the key itself: the persistent one if it is the right one, else
// derived from the template.
func (o *op) ekObject(place ekPlace, certificate []byte) (*Object, error) {
	if place.unusable != nil {
		return nil, place.unusable
	}
	key := fmt.Sprintf("EK %#x", uint32(place.index))
	if obj := o.t.primaries[key]; obj != nil && !obj.gone {
		return obj, nil
	}
	obj, err := o.persistentEK(place, certificate)
	if err == nil && obj == nil {
		obj, err = o.primary(tpm2.TPMRHEndorsement, place.template)
	}
	if err != nil {
		return nil, err
	}
	if !certifies(certificate, obj.public) {
		return nil, Classify(ErrDamaged, "ask the maker of the machine for the right certificate",
			fmt.Errorf("the EK certificate at %#x is of another key", uint32(place.index)))
	}
	o.t.primaries[key] = obj
	return obj, nil
}

// persistentEK is nil if the chip keeps no such key. With a certificate the public
// area is not read but made from it: what the maker signed is a better source than
// the bus. If another key turns out to be at the handle, activation fails and
// distrustEK sets it right.
func (o *op) persistentEK(place ekPlace, certificate []byte) (*Object, error) {
	there, err := o.hasPersistent(place.persistent)
	if err != nil || !there {
		return nil, err
	}
	if public, err := certifiedPublic(place.template, certificate); err == nil {
		name, err := tpm2.ObjectName(&public)
		if err != nil {
			return nil, err
		}
		return &Object{handle: place.persistent, name: *name, public: public, fixed: true, assumed: true}, nil
	}
	obj, err := o.readPersistent(place.persistent)
	if err != nil || obj == nil || !SameTemplate(obj.public, place.template) || !certifies(certificate, obj.public) {
		return nil, err
	}
	return obj, nil
}

// distrustEK looks what really is at the persistent handle of an EK that was assumed
// there; if it is another key, it derives the EK. The answer tells whether to retry.
func (o *op) distrustEK(place ekPlace, obj *Object) (retry bool, err error) {
	if !obj.assumed {
		return false, nil
	}
	there, err := o.readPersistent(obj.handle)
	if err != nil {
		return false, err
	}
	if there != nil && bytes.Equal(there.name.Buffer, obj.name.Buffer) {
		obj.assumed = false
		return false, nil
	}
	derived, err := o.primary(tpm2.TPMRHEndorsement, place.template)
	if err != nil {
		return false, err
	}
	o.t.primaries[fmt.Sprintf("EK %#x", uint32(place.index))] = derived
	return true, nil
}

// ekByName finds the EK again whose public part a caller holds.
func (o *op) ekByName(ek *EK) (*Object, ekPlace, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public)
	if err != nil {
		return nil, ekPlace{}, Classify(ErrDamaged, "", fmt.Errorf("read EK: %w", err))
	}
	if o.t.places == nil {
		if _, err := o.findPlaces(); err != nil {
			return nil, ekPlace{}, err
		}
	}
	for _, place := range o.t.places {
		if place.kind != ek.Kind || !SameTemplate(*public, place.template) {
			continue
		}
		obj, err := o.ekObject(place, ek.Certificate)
		if err != nil {
			return nil, ekPlace{}, err
		}
		if bytes.Equal(obj.name.Buffer, ek.Name) {
			return obj, place, nil
		}
	}
	return nil, ekPlace{}, Classify(ErrReplaced, "this chip has another EK", nil)
}
