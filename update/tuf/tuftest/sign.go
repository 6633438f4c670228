package tuftest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func (r *Repo) sign(role string, again bool) []byte {
	r.tb.Helper()
	if again {
		*r.version(role)++
	}
	switch role {
	case "root":
		return sign(r, role, r.Root)
	case "timestamp":
		return sign(r, role, r.Timestamp)
	case "snapshot":
		return sign(r, role, r.Snapshot)
	}
	return sign(r, role, r.Targets[role])
}

// sign lets go-tuf sign, unless the file is to be edited: then it is signed here.
func sign[T metadata.Roles](r *Repo, role string, m *metadata.Metadata[T]) []byte {
	r.tb.Helper()
	m.ClearSignatures()
	if r.Edit == nil {
		for _, s := range r.Signers[role] {
			_, err := m.Sign(s.signer)
			must(r.tb, err)
		}
	}
	data, err := m.ToBytes(true)
	must(r.tb, err)
	if r.Edit == nil {
		return data
	}
	signed := Parse(r.tb, data)["signed"].(map[string]any)
	r.Edit(role, signed)
	return Seal(r.tb, signed, r.Signers[role]...)
}

// Parse reads JSON with its numbers as they are written.
func Parse(tb testing.TB, data []byte) map[string]any {
	tb.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var tree map[string]any
	must(tb, dec.Decode(&tree))
	return tree
}

// Seal signs any JSON object as the signed part of a file.
func Seal(tb testing.TB, signed map[string]any, signers ...Signer) []byte {
	tb.Helper()
	message, err := cjson.EncodeCanonical(signed)
	must(tb, err)
	signatures := []any{}
	for _, s := range signers {
		signatures = append(signatures, map[string]any{"keyid": s.ID, "sig": hex.EncodeToString(s.Sign(tb, message))})
	}
	return Encode(tb, map[string]any{"signed": signed, "signatures": signatures})
}

// Encode writes JSON.
func Encode(tb testing.TB, tree any) []byte {
	tb.Helper()
	data, err := json.MarshalIndent(tree, "", " ")
	must(tb, err)
	return data
}

// Alter changes the file that was published last for role, without signing it.
func (r *Repo) Alter(role string, change func(file map[string]any)) {
	r.tb.Helper()
	files := r.Served[role]
	tree := Parse(r.tb, files[len(files)-1])
	change(tree)
	files[len(files)-1] = Encode(r.tb, tree)
}
