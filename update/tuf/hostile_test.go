package tuf_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

type tree = map[string]any

// Everything here is signed by the right keys: the repository itself is hostile, or
// whoever wrote it erred.
func TestHostileRootIsRefusedAndNotStored(t *testing.T) {
	short := func(n int) func(tree) {
		return func(f tree) { firstKey(f)["keyval"] = tree{"public": strings.Repeat("ab", n)} }
	}
	for name, c := range map[string]struct {
		edit func(tree)
		rule string
	}{
		"no ed25519 key":              {short(0), "format"},
		"short ed25519 key":           {short(31), "format"},
		"long ed25519 key":            {short(33), "format"},
		"key that is no hex":          {func(f tree) { firstKey(f)["keyval"] = tree{"public": strings.Repeat("zz", 32)} }, "format"},
		"huge key":                    {short(100_000), "format"},
		"key without value":           {func(f tree) { delete(firstKey(f), "keyval") }, "format"},
		"ECDSA key that is no PEM":    {func(f tree) { scheme(f, "ecdsa", "ecdsa-sha2-nistp256") }, "format"},
		"RSA key that is no PEM":      {func(f tree) { scheme(f, "rsa", "rsassa-pss-sha256") }, "format"},
		"threshold 0":                 {func(f tree) { at(f, "roles", "targets")["threshold"] = 0 }, "format"},
		"negative threshold":          {func(f tree) { at(f, "roles", "root")["threshold"] = -1 }, "format"},
		"threshold that is a string":  {func(f tree) { at(f, "roles", "root")["threshold"] = "1" }, "format"},
		"threshold that is no number": {func(f tree) { at(f, "roles", "root")["threshold"] = nil }, "format"},
		"threshold above the keys":    {func(f tree) { at(f, "roles", "root")["threshold"] = 2 }, "signature"},
		"no keys":                     {func(f tree) { at(f, "roles", "root")["keyids"] = []any{} }, "signature"},
		"one key id twice": {func(f tree) {
			l := at(f, "roles", "root")
			l["keyids"] = append(l["keyids"].([]any), l["keyids"].([]any)...)
		}, "format"},
		"key id that is no string": {func(f tree) { at(f, "roles", "root")["keyids"] = []any{1} }, "format"},
		"a role is missing":        {func(f tree) { delete(at(f, "roles"), "timestamp") }, "format"},
		"no roles":                 {func(f tree) { delete(f, "roles") }, "format"},
		"keys is an array":         {func(f tree) { f["keys"] = []any{} }, "format"},
		"too many keys":            {tooManyKeys, "format"},
		"version 0":                {func(f tree) { f["version"] = 0 }, "format"},
		"version is too high":      {func(f tree) { f["version"] = 3 }, "version"},
		"highest version":          {func(f tree) { f["version"] = json.Number("9223372036854775807") }, "version"},
		"other type":               {func(f tree) { f["_type"] = "targets" }, "type"},
		"no type":                  {func(f tree) { delete(f, "_type") }, "format"},
		"specification 2":          {func(f tree) { f["spec_version"] = "2.0.0" }, "format"},
		"no specification":         {func(f tree) { f["spec_version"] = "" }, "format"},
		"expires with a zone":      {func(f tree) { f["expires"] = "2031-01-01T00:00:00+01:00" }, "format"},
		"expires with a fraction":  {func(f tree) { f["expires"] = "2031-01-01T00:00:00.5Z" }, "format"},
		"expires never":            {func(f tree) { delete(f, "expires") }, "format"},
		"expires on 30 February":   {func(f tree) { f["expires"] = "2031-02-30T00:00:00Z" }, "format"},
		"consistent_snapshot is 1": {func(f tree) { f["consistent_snapshot"] = 1 }, "format"},
		"replacement character":    {func(f tree) { f["x"] = "\uFFFD" }, "format"},
		"deep nesting":             {func(f tree) { f["x"] = deep(40) }, "format"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.good()
			d.repo.Edit = func(_ string, signed tree) { c.edit(signed) }
			d.repo.Publish("root")
			d.refused("root", c.rule)
		})
	}
}

func firstKey(f tree) tree {
	for _, id := range at(f, "roles", "targets")["keyids"].([]any) {
		return at(f, "keys", id.(string))
	}
	return nil
}

func scheme(f tree, kind, scheme string) {
	key := firstKey(f)
	key["keytype"], key["scheme"] = kind, scheme
}

func tooManyKeys(f tree) {
	key := firstKey(f)
	for i := range tuf.MaxKeys {
		at(f, "keys")[fmt.Sprint(i)] = key
	}
}

func deep(n int) any {
	if n == 0 {
		return 1
	}
	return []any{deep(n - 1)}
}

// What must not be signed at all: other JSON than one that all readers read alike.
func TestAmbiguousJSONIsRefused(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"key twice":          func(s string) string { return strings.Replace(s, `"version": 2`, `"version": 1, "version": 2`, 1) },
		"signed twice":       func(s string) string { return strings.Replace(s, `"signatures"`, `"signed": {}, "signatures"`, 1) },
		"key twice, escaped": func(s string) string { return strings.Replace(s, `"version": 2`, `"version": 2, "v\u0065rsion": 2`, 1) },
		"fraction":           func(s string) string { return strings.Replace(s, `"version": 2`, `"version": 2.0`, 1) },
		"exponent":           func(s string) string { return strings.Replace(s, `"version": 2`, `"version": 2e0`, 1) },
		"integer beyond 64 bits": func(s string) string {
			return strings.Replace(s, `"version": 2`, `"version": 2, "x": 9223372036854775808`, 1)
		},
		"minus zero":            func(s string) string { return strings.Replace(s, `"version": 2`, `"version": 2, "x": -0`, 1) },
		"half a surrogate pair": func(s string) string { return strings.Replace(s, `"version": 2`, `"version": 2, "x": "\ud800"`, 1) },
		"invalid UTF-8":         func(s string) string { return strings.Replace(s, `"version": 2`, "\"version\": 2, \"x\": \"\xff\"", 1) },
		"text behind":           func(s string) string { return s + "{}" },
		"no object":             func(string) string { return "[]" },
		"null":                  func(string) string { return "null" },
		"nothing":               func(string) string { return "" },
		"cut off":               func(s string) string { return s[:len(s)-2] },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.repo.Publish("timestamp")
			old := string(d.repo.Served["timestamp"][1])
			changed := change(old)
			if changed == old {
				t.Fatal("nothing was changed")
			}
			d.repo.Served["timestamp"][1] = []byte(changed)
			d.refused("timestamp", "format")
		})
	}
}

// Keys that only look alike are different keys, and unknown keys are kept.
func TestKeysAreExact(t *testing.T) {
	d := newDevice(t)
	d.repo.Edit = func(_ string, signed tree) {
		signed["Version"], signed["VERSION"], signed["Meta"] = 99, "x", nil
	}
	d.repo.Publish("timestamp")
	d.good()
	d.repo.Edit = func(_ string, signed tree) {
		signed["Version"] = signed["version"]
		delete(signed, "version")
	}
	d.repo.Publish("timestamp")
	d.refused("timestamp", "format")
}

func TestOneKeyUnderTwoIDsCountsOnce(t *testing.T) {
	for _, kind := range tuftest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			d := newDevice(t)
			key := tuftest.NewSigner(t, kind)
			alias := key
			alias.ID = "alias"
			sign := []tuftest.Signer{key, alias}
			d.repo.SetKeys("timestamp", 1, sign[:1], sign)
			d.repo.Edit = func(role string, signed tree) {
				if role != "root" {
					return
				}
				same := tree{}
				for k, v := range at(signed, "keys", key.ID) {
					same[k] = v
				}
				if kind == "ecdsa" {
					same["keytype"] = "ecdsa-sha2-nistp256" // another name of the same type
				}
				at(signed, "keys")["alias"] = same
				at(signed, "roles", "timestamp")["keyids"] = []any{key.ID, "alias"}
				at(signed, "roles", "timestamp")["threshold"] = 2
			}
			d.repo.Publish("timestamp", "root")
			_, err := d.refresh()
			mustRefuse(t, err, "timestamp", "signature")
			second := tuftest.NewSigner(t, "ed25519")
			d.repo.Edit = nil
			d.repo.SetKeys("timestamp", 2, []tuftest.Signer{key, second}, []tuftest.Signer{key, second})
			d.repo.Publish("timestamp", "root")
			d.good()
		})
	}
}

// A key of a kind that we don't know, or an id without a key, is no signer, but it
// does not spoil a file that others signed.
func TestUnknownKeysCountForNothing(t *testing.T) {
	for name, edit := range map[string]func(tree){
		"unknown scheme": func(f tree) { scheme(f, "ecdsa", "ecdsa-sha2-nistp384") },
		"unknown type":   func(f tree) { scheme(f, "sphincs", "sphincs") },
		"id without key": func(f tree) { delete(at(f, "keys"), at(f, "roles", "targets")["keyids"].([]any)[0].(string)) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.repo.AddKey("targets", tuftest.NewSigner(t, "ed25519"))
			d.repo.Edit = func(role string, signed tree) {
				if role == "root" {
					edit(signed)
				}
			}
			d.repo.PublishAll()
			d.good()
			d.repo.Signers["targets"] = d.repo.Signers["targets"][:1] // the spoilt one alone
			d.repo.Publish("targets", "snapshot", "timestamp")
			_, err := d.refresh()
			mustRefuse(t, err, "targets", "signature")
		})
	}
}

func TestTraversalInTargetNamesIsRefused(t *testing.T) {
	for _, path := range []string{
		"", ".", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "a//b", "a/", "./a", `a\b`, `..\x`, "a\x00b", "a\nb", "a\x7fb", strings.Repeat("a", tuf.MaxTargetPath+1),
	} {
		d := newDevice(t)
		d.repo.AddTarget("targets", path, []byte("x"))
		d.repo.Publish("targets", "snapshot", "timestamp")
		_, err := d.refresh()
		mustRefuse(t, err, "targets", "name")
	}
	d := newDevice(t)
	for _, path := range []string{"a", "a/b", "...", "..a", "a b?#%", "ä/☃", strings.Repeat("a", tuf.MaxTargetPath)} {
		d.repo.AddTarget("targets", path, []byte(path))
	}
	d.repo.Publish("targets", "snapshot", "timestamp")
	c := d.good()
	for path := range d.repo.Files {
		if got, err := download(t, c, d.target(c, path)); err != nil || got != path {
			t.Errorf("%.20q: %v", path, err)
		}
	}
}

func TestRoleNamesStayInTheFolder(t *testing.T) {
	for _, name := range []string{"../up", "../../up", "/abs", "..", ".", "a/b", "%2e%2e", "a\x00b", "root.json", ".root.json.tmp", "CON", "roots"} {
		d := newDevice(t)
		outside := filepath.Dir(d.dir)
		d.repo.Delegate("targets", metadata.DelegatedRole{Name: name, Paths: []string{"*"}})
		d.repo.AddTarget(name, "file", []byte("content"))
		d.repo.Publish(name, "targets", "snapshot", "timestamp")
		c := d.good()
		d.target(c, "file")
		if all, _ := filepath.Glob(filepath.Join(outside, "*")); len(all) != 1 {
			t.Errorf("%q: beside the folder are %q", name, all)
		}
		if all, _ := filepath.Glob(filepath.Join(d.dir, "*")); len(d.stored()) != 4 {
			t.Errorf("%q: in the folder are %q", name, all)
		}
		d.target(d.good(), "file") // from what is stored
	}
	for _, name := range []string{"", "root", "timestamp", "snapshot", "targets", strings.Repeat("x", tuf.MaxRoleName+1)} {
		d := newDevice(t)
		d.repo.Targets[name] = d.repo.Targets["targets"]
		d.repo.Edit = func(role string, signed tree) {
			if role == "targets" {
				key := tree{"keytype": "ed25519", "scheme": "ed25519", "keyval": tree{"public": strings.Repeat("ab", 32)}}
				signed["delegations"] = tree{"keys": tree{"k": key}, "roles": []any{tree{"name": name, "keyids": []any{"k"}, "threshold": 1, "terminating": false, "paths": []any{"*"}}}}
			}
		}
		d.repo.Publish("targets", "snapshot", "timestamp")
		_, err := d.refresh()
		mustRefuse(t, err, "targets", "format")
	}
}

func TestHostileTargetsAreRefused(t *testing.T) {
	delegate := func(change func(role, delegations tree)) func(tree) {
		return func(f tree) {
			role := tree{"name": "a", "keyids": []any{"k"}, "threshold": 1, "terminating": false, "paths": []any{"*"}}
			key := tree{"keytype": "ed25519", "scheme": "ed25519", "keyval": tree{"public": strings.Repeat("ab", 32)}}
			f["delegations"] = tree{"keys": tree{"k": key}, "roles": []any{role}}
			change(role, at(f, "delegations"))
		}
	}
	file := func(key string, value any) func(tree) {
		return func(f tree) {
			entry := tree{"length": 1, "hashes": tree{"sha256": strings.Repeat("00", 32)}}
			entry[key] = value
			if value == nil {
				delete(entry, key)
			}
			f["targets"] = tree{"file": entry}
		}
	}
	many := make([]any, 1000)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for name, edit := range map[string]func(tree){
		"no length":             file("length", nil),
		"negative length":       file("length", -1),
		"no hashes":             file("hashes", nil),
		"empty hashes":          file("hashes", tree{}),
		"unknown hash only":     file("hashes", tree{"md5": strings.Repeat("00", 16)}),
		"short hash":            file("hashes", tree{"sha256": "00"}),
		"hash that is no hex":   file("hashes", tree{"sha256": strings.Repeat("zz", 32)}),
		"custom is a string":    file("custom", "x"),
		"fraction in custom":    file("custom", tree{"x": json.Number("1.5")}),
		"no targets":            func(f tree) { delete(f, "targets") },
		"threshold 0":           delegate(func(role, _ tree) { role["threshold"] = 0 }),
		"short key":             delegate(func(_, d tree) { at(d, "keys", "k")["keyval"] = tree{"public": "ab"} }),
		"succinct roles":        delegate(func(_, d tree) { d["succinct_roles"] = tree{} }),
		"paths and prefixes":    delegate(func(role, _ tree) { role["path_hash_prefixes"] = []any{"00"} }),
		"bad pattern":           delegate(func(role, _ tree) { role["paths"] = []any{"["} }),
		"bad prefix":            delegate(func(role, _ tree) { delete(role, "paths"); role["path_hash_prefixes"] = []any{"0G"} }),
		"empty prefix":          delegate(func(role, _ tree) { delete(role, "paths"); role["path_hash_prefixes"] = []any{""} }),
		"long prefix":           delegate(func(role, _ tree) { delete(role, "paths"); role["path_hash_prefixes"] = []any{strings.Repeat("0", 65)} }),
		"too many paths":        delegate(func(role, _ tree) { role["paths"] = many }),
		"role twice":            delegate(func(role, d tree) { d["roles"] = []any{role, role} }),
		"terminating is a text": delegate(func(role, _ tree) { role["terminating"] = "no" }),
		"roles is an object":    delegate(func(_, d tree) { d["roles"] = tree{} }),
		"no keys":               delegate(func(_, d tree) { delete(d, "keys") }),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			fraction := name == "fraction in custom"
			d.repo.Edit = func(role string, signed tree) {
				if role == "targets" && !fraction {
					edit(signed)
				}
			}
			d.repo.Publish("targets", "snapshot", "timestamp")
			if fraction { // can't be signed: there is no canonical form
				d.repo.Alter("targets", func(f tree) { edit(at(f, "signed")) })
			}
			d.refused("targets", "format", "snapshot", "timestamp")
		})
	}
}

func TestTooManySignatures(t *testing.T) {
	d := newDevice(t)
	d.repo.Alter("timestamp", func(f tree) {
		all := f["signatures"].([]any)
		for i := range tuf.MaxSignatures {
			all = append(all, tree{"keyid": fmt.Sprint(i), "sig": "00"})
		}
		f["signatures"] = all
	})
	d.refused("timestamp", "format")
}

// Flipping any bit of a file is noticed, or changes nothing that is read.
func TestEveryBitFlipIsRefusedOrMeaningless(t *testing.T) {
	d := newDevice(t)
	good := d.repo.Served["timestamp"][0]
	set := func() *tuf.Set {
		s, err := tuf.NewSet(d.pinned, d.now)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	step := tuf.Delegation{Parent: tuf.Root, Role: tuf.Timestamp}
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := set().Update(step, bad); err != nil {
			continue
		}
		// White space, or a hex digit in the other case.
		if !strings.EqualFold(string(normal(t, good)), string(normal(t, bad))) {
			t.Errorf("bit %d of byte %d: %q was accepted", i%8, i/8, bad)
		}
	}
}

func normal(t *testing.T, data []byte) []byte { return tuftest.Encode(t, tuftest.Parse(t, data)) }
