package core

import (
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// handles lists the handles that the chip has in a range, ends included.
func (o *op) handles(first, last tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	var list []tpm2.TPMHandle
	for next := first; ; {
		rsp, err := tpm2.GetCapability{
			Capability: tpm2.TPMCapHandles, Property: uint32(next), PropertyCount: maxCapHandles,
		}.Execute(o)
		if err != nil {
			return nil, err
		}
		page, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return nil, err
		}
		for _, h := range page.Handle {
			if h < next || h > last {
				return list, nil
			}
			list, next = append(list, h), h+1
		}
		if !rsp.MoreData || len(page.Handle) == 0 {
			return list, nil
		}
	}
}

// readNV reads a whole index with its own, empty password.
func (o *op) readNV(index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(o)
	if err != nil {
		return nil, err
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	if area.NVIndex != index || area.DataSize > maxNVIndex {
		return nil, fmt.Errorf("read NV index %#x: %d bytes, more than %d", uint32(index), area.DataSize, maxNVIndex)
	}
	return o.readNVData(index, public.NVName, int(area.DataSize))
}

// readNVData reads in pieces. It starts with what nearly all chips give at once
// rather than asking for the limit first, which would cost a command each time.
func (o *op) readNVData(index tpm2.TPMHandle, name tpm2.TPM2BName, size int) ([]byte, error) {
	data := make([]byte, 0, size)
	for chunk := nvChunk; len(data) < size; {
		want := min(chunk, size-len(data))
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: name, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
			Size:       uint16(want),
			Offset:     uint16(len(data)),
		}.Execute(o)
		if errors.Is(err, tpm2.TPMRCValue) && chunk > 64 {
			chunk /= 2
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(rsp.Data.Buffer) != want {
			return nil, fmt.Errorf("read NV index %#x: %d bytes for %d", uint32(index), len(rsp.Data.Buffer), want)
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// ReadNV reads an index with its own, empty password, in a session salted to the
// storage key with this Name: an answer that the chip did not send is an error, and so
// is one about an index of another Name. The null Name does without a session.
func (c *Chip) ReadNV(index tpm2.NamedHandle, size int, storage []byte) ([]byte, error) {
	auth := tpm2.PasswordAuth(nil)
	if storage != nil {
		key, err := c.StorageNamed(storage, uint32(HandleSRK))
		if err != nil {
			return nil, err
		}
		auth = tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(key.Handle.Handle, key.Public))
		defer c.o.flushSession(auth)
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: auth},
		NVIndex:    index,
		Size:       uint16(size),
	}.Execute(c)
	if err != nil {
		return nil, err
	}
	if len(rsp.Data.Buffer) != size {
		return nil, fmt.Errorf("read NV index %#x: %d bytes for %d", uint32(index.Handle), len(rsp.Data.Buffer), size)
	}
	return rsp.Data.Buffer, nil
}

// splitDER cuts concatenated DER sequences apart, and off what follows them: makers
// pad certificates with zeros or ones up to the size of the index.
func splitDER(data []byte) [][]byte {
	var parts [][]byte
	for len(data) != 0 {
		var raw asn1.RawValue
		rest, err := asn1.Unmarshal(data, &raw)
		if err != nil || raw.Tag != asn1.TagSequence || !raw.IsCompound || raw.Class != asn1.ClassUniversal {
			return parts
		}
		parts, data = append(parts, raw.FullBytes), rest
	}
	return parts
}
