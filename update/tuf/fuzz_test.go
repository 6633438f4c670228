package tuf_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

// FuzzSignedByNobody feeds bytes to every role: only what was published passes, in
// whatever form it is written down.
func FuzzSignedByNobody(f *testing.F) {
	repo := tuftest.New(f)
	repo.Delegate("targets", metadata.DelegatedRole{Name: "a", Paths: []string{"*"}})
	repo.AddTarget("targets", "file", []byte("content"))
	repo.PublishAll()
	roles := []string{"root", "timestamp", "snapshot", "targets", "a"}
	for _, role := range roles {
		for _, data := range repo.Served[role] {
			f.Add(data)
		}
	}
	f.Add([]byte(`{"signed":{"_type":"root"},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := tuf.NewSet(repo.Served["root"][0], tuftest.Epoch())
		if err != nil {
			t.Fatal(err)
		}
		if set.UpdateRoot(data) == nil {
			wasPublished(t, repo, "root", data)
		}
		for _, role := range roles[1:] {
			step := tuf.Delegation{Parent: "root", Role: role}
			good := repo.Served[role][len(repo.Served[role])-1]
			if role == "a" {
				step.Parent, good = "targets", repo.Served["a"][0]
			}
			if _, err := set.Update(step, data); err == nil {
				wasPublished(t, repo, role, data)
				return
			} else if _, err := set.Update(step, good); err != nil {
				t.Fatalf("after a refused %s the good one is refused: %v", role, err)
			}
		}
	})
}

func wasPublished(t *testing.T, repo *tuftest.Repo, role string, data []byte) {
	t.Helper()
	got := canonicalByPeer(t, data)
	for _, published := range repo.Served[role] {
		if got == canonicalByPeer(t, published) {
			return
		}
	}
	t.Errorf("%s was accepted: %.200q", role, data)
}

func canonicalByPeer(t *testing.T, data []byte) string {
	t.Helper()
	message, err := cjson.EncodeCanonical(tuftest.Parse(t, data)["signed"])
	if err != nil {
		t.Fatal(err)
	}
	return string(message)
}

// FuzzSignedByTheOwner puts any JSON into metadata and signs it with an encoder that
// is not ours: nothing panics, and what we accept, go-tuf accepts too.
func FuzzSignedByTheOwner(f *testing.F) {
	repo := tuftest.New(f)
	repo.Publish("root")
	signers := repo.Signers["root"]
	file := tuftest.Parse(f, repo.Served["root"][1])["signed"].(map[string]any)
	for key := range file {
		for _, value := range []string{`1`, `0`, `2`, `"x"`, `null`, `{}`, `[]`, `{"a":{"keyids":["b"],"threshold":1}}`, `"2031-01-01T00:00:00Z"`} {
			f.Add(key, []byte(value))
		}
	}
	f.Add("keys", []byte(`{"x":{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"ab"}}}`))
	f.Add("x", []byte(`{"ä\n\"\\/<>":"\u2028","":[[],{},-1,9223372036854775807,true,false,null]}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		if !json.Valid(value) || len(value) > 10_000 {
			return
		}
		signed := tuftest.Parse(t, tuftest.Encode(t, file))
		var parsed any
		dec := json.NewDecoder(bytes.NewReader(value))
		dec.UseNumber()
		if dec.Decode(&parsed) != nil {
			return
		}
		signed[key] = parsed
		if folds(signed) {
			return
		}
		if _, err := cjson.EncodeCanonical(signed); err != nil || strings.ContainsRune(key, '\uFFFD') {
			return
		}
		data := tuftest.Seal(t, signed, signers...)
		ours, err := tuf.NewSet(repo.Served["root"][0], tuftest.Epoch())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := trustedmetadata.New(repo.Served["root"][0])
		if err != nil {
			t.Fatal(err)
		}
		if ours.UpdateRoot(data) != nil {
			return
		}
		// It reads integers that it doesn't know as floating point numbers.
		if _, err := theirs.UpdateRoot(data); err != nil && !strings.Contains(err.Error(), "floating point number") {
			t.Errorf("we accept what go-tuf refuses: %v\n%s", err, data)
		}
	})
}

// folds says whether v holds a key that go-tuf takes for one of its own because it
// does not tell upper from lower case.
func folds(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, folds)
	case map[string]any:
		for key, value := range v {
			for _, own := range []string{
				"_type", "spec_version", "version", "expires", "keys", "roles", "consistent_snapshot", "keyids", "threshold", "keytype", "scheme", "keyval", "public",
			} {
				if key != own && strings.EqualFold(key, own) {
					return true
				}
			}
			if folds(value) {
				return true
			}
		}
	}
	return false
}
