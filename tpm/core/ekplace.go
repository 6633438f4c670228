package core

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/internal/ektemplate"
)

// ekPlace is a place where a chip's maker may leave an EK certificate, with the
// template that the index stands for (EK Credential Profile 2.5, B.3 and B.4), or
// the maker's own.
type ekPlace struct {
	kind       string
	index      tpm2.TPMHandle // of the certificate
	persistent tpm2.TPMHandle // where the key itself may be, or 0
	template   tpm2.TPMTPublic
	unusable   error // the maker's template makes no EK
}

// ekPlaces lists those that the TCG names, in the order in which they are chosen.
func ekPlaces() []ekPlace {
	return []ekPlace{
		{kind: "ecc-p256", index: 0x01c0000a, persistent: 0x81010002, template: tpm2.ECCEKTemplate},
		{kind: "ecc-p256", index: 0x01c00014, persistent: 0x81010014, template: ektemplate.H2()},
		{kind: "rsa2048", index: 0x01c00002, persistent: 0x81010001, template: tpm2.RSAEKTemplate},
		{kind: "rsa2048", index: 0x01c00012, persistent: 0x81010012, template: ektemplate.H1()},
		{kind: "ecc-p384", index: 0x01c00016, persistent: 0x81010016, template: ektemplate.H3()},
	}
}

// findPlaces lists the indexes of the range, and notes the places of this chip: those
// of the TCG with the maker's templates put in, then others of the high range that
// hold a certificate and a template.
func (o *op) findPlaces() (indexes []tpm2.TPMHandle, err error) {
	if indexes, err = o.handles(nvEKFirst, nvEKLast); err != nil {
		return nil, err
	}
	places, known := ekPlaces(), make(map[tpm2.TPMHandle]bool)
	for _, place := range places {
		known[place.index] = true
	}
	for _, index := range indexes {
		chain := index >= nvChainFirst && index <= nvChainLast
		if index >= nvEKHighFirst && index%2 == 0 && !known[index] && !chain && slices.Contains(indexes, index+1) {
			places = append(places, ekPlace{index: index})
		}
	}
	o.t.places = places[:0]
	for _, place := range places {
		if err := o.ownTemplate(&place, indexes); err != nil {
			o.t.places = nil
			return nil, err
		}
		if place.kind != "" {
			o.t.places = append(o.t.places, place)
		}
	}
	return indexes, nil
}

// ownTemplate puts in the template and the nonce that the maker left for a place. A
// nonce without template has no meaning in the profile and is passed over.
func (o *op) ownTemplate(p *ekPlace, indexes []tpm2.TPMHandle) error {
	at, nonceAt := p.index+1, tpm2.TPMHandle(0)
	if p.index < nvEKHighFirst {
		at, nonceAt = p.index+2, p.index+1
	}
	if !slices.Contains(indexes, at) {
		return nil
	}
	data, err := o.readNV(at)
	if errors.Is(err, tpm2.TPMRCNVUninitialized) {
		return nil
	}
	var nonce []byte
	if err == nil && slices.Contains(indexes, nonceAt) {
		if nonce, err = o.readNV(nonceAt); errors.Is(err, tpm2.TPMRCNVUninitialized) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	template, kind, err := makersTemplate(data, nonce)
	if err == nil && p.kind != "" && p.kind != kind {
		err = fmt.Errorf("it is of kind %s", kind)
	}
	if err != nil {
		p.unusable = Classify(ErrDamaged, "ask the maker of the machine", fmt.Errorf("the EK template at %#x: %w", uint32(at), err))
		return nil
	}
	p.kind, p.template = kind, template
	return nil
}

// makersTemplate reads a TPMT_PUBLIC, which may be padded, and fills its unique field
// with the nonce and zeros up to the size of the key. It must be of a key that only
// decrypts, and only what was made for its chip: another could be used to lie.
func makersTemplate(data, nonce []byte) (t tpm2.TPMTPublic, kind string, err error) {
	read, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
	if err != nil {
		return t, "", err
	}
	if a := read.ObjectAttributes; !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.Restricted || !a.Decrypt || a.SignEncrypt {
		return t, "", errors.New("it is not of a key that decrypts credentials alone")
	}
	kind, size := ekKind(*read)
	if kind == "" || len(nonce) > size {
		return t, "", fmt.Errorf("it is of another kind, or has a nonce of %d bytes", len(nonce))
	}
	if nonce == nil {
		return *read, kind, nil
	}
	padded := append(slices.Clone(nonce), make([]byte, size-len(nonce))...)
	if kind == "rsa2048" {
		read.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: padded})
	} else {
		read.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: padded}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, size)},
		})
	}
	return *read, kind, nil
}

// ekKind is "" for keys that this package has no name for; size is that of the key, or
// of a coordinate, in bytes.
func ekKind(t tpm2.TPMTPublic) (kind string, size int) {
	if rsa, err := t.Parameters.RSADetail(); t.Type == tpm2.TPMAlgRSA && err == nil && rsa.KeyBits == 2048 {
		return "rsa2048", 256
	}
	if ecc, err := t.Parameters.ECCDetail(); t.Type == tpm2.TPMAlgECC && err == nil {
		switch ecc.CurveID {
		case tpm2.TPMECCNistP256:
			return "ecc-p256", 32
		case tpm2.TPMECCNistP384:
			return "ecc-p384", 48
		}
	}
	return "", 0
}
