package main

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

func dirs(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if !e.IsDir() {
			all = append(all, e.Name())
		}
	}
	return all
}

func TestSnapshotDoesNotMeetThreshold(t *testing.T) {
	s := start(t)
	all := []tuftest.Signer{tuftest.NewSigner(t, "ed25519"), tuftest.NewSigner(t, "ed25519"), tuftest.NewSigner(t, "ed25519")}
	s.repo.SetKeys("snapshot", 3, all, all)
	s.repo.PublishAll()
	s.good("root=2 snapshot=2 targets=2 timestamp=2")
	s.repo.Signers["snapshot"] = all[:2]
	s.repo.Publish("targets", "snapshot", "timestamp")
	s.bad("root=2 snapshot=2 targets=2 timestamp=3")
}

func TestSnapshotHasTooFewKeys(t *testing.T) {
	s := start(t)
	s.repo.AddKey("snapshot", tuftest.NewSigner(t, "ed25519"))
	s.repo.Root.Signed.Roles["snapshot"].Threshold = 3
	s.repo.Publish("root", "snapshot", "timestamp")
	s.bad("root=2 timestamp=2")
}

func TestDuplicateKeys(t *testing.T) {
	s := start(t)
	s.repo.Root.Signed.Roles["snapshot"].Threshold = 3
	key := s.repo.Signers["snapshot"][0]
	s.repo.Edit = func(role string, signed map[string]any) {
		if role == "root" {
			signed["roles"].(map[string]any)["snapshot"].(map[string]any)["keyids"] = []any{key.ID, key.ID, key.ID}
		}
	}
	s.repo.Publish("root", "snapshot", "timestamp")
	s.repo.Alter("snapshot", func(f map[string]any) {
		all := f["signatures"].([]any)
		f["signatures"] = append(all, all[0], all[0])
	})
	s.bad("root=1")
}

func TestDuplicateSignatureKeyids(t *testing.T) {
	s := start(t)
	s.repo.Alter("snapshot", func(f map[string]any) {
		all := f["signatures"].([]any)
		f["signatures"] = append(all, all[0])
	})
	s.bad("root=1 timestamp=1")
}

func TestKeytypeAndScheme(t *testing.T) {
	for _, kind := range tuftest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			s := start(t)
			key := tuftest.NewSigner(t, kind)
			s.repo.AddKey("root", key)
			s.repo.Root.Signed.Roles["root"].Threshold = 2
			s.repo.Publish("root")
			s.good("root=2 snapshot=1 targets=1 timestamp=1")
			s.repo.Publish("root")
			s.repo.Alter("root", func(f map[string]any) {
				old := tuftest.Parse(t, s.repo.Served["root"][1])["signatures"].([]any)
				for i, sig := range f["signatures"].([]any) {
					if sig.(map[string]any)["keyid"] == key.ID {
						sig.(map[string]any)["sig"] = old[i].(map[string]any)["sig"]
					}
				}
			})
			s.bad("root=2 snapshot=1 targets=1 timestamp=1")
		})
	}
}

func TestInvalidSignatureInValidMetadata(t *testing.T) {
	for name, sig := range map[string]string{"empty": "", "no hex": "zz", "plausible": "00112233"} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			old := s.repo.Signers["timestamp"][0]
			s.repo.AddKey("timestamp", tuftest.NewSigner(t, "ed25519"))
			s.repo.Publish("root", "timestamp")
			s.repo.Alter("timestamp", func(f map[string]any) {
				for _, one := range f["signatures"].([]any) {
					if one.(map[string]any)["keyid"] == old.ID {
						one.(map[string]any)["sig"] = sig
					}
				}
			})
			s.good("root=2 snapshot=1 targets=1 timestamp=2")
		})
	}
}

func TestRootExpired(t *testing.T) {
	s := start(t)
	s.repo.Publish("root")
	s.good("root=2 snapshot=1 targets=1 timestamp=1")
	s.repo.Root.Signed.Expires = days(-1)
	s.repo.Publish("root", "targets", "snapshot", "timestamp")
	s.bad("root=3 snapshot=1 targets=1 timestamp=1")
}

func TestTimestampExpired(t *testing.T) {
	s := start(t)
	s.good(allFirst)
	s.repo.Timestamp.Signed.Expires = days(-5)
	s.repo.Publish("timestamp")
	s.bad(allFirst)
}

func TestSnapshotExpired(t *testing.T) {
	s := start(t)
	s.good(allFirst)
	s.repo.Snapshot.Signed.Expires = days(-5)
	s.repo.Publish("snapshot", "timestamp")
	s.bad("root=1 snapshot=1 targets=1 timestamp=2")
}

func TestTargetsExpired(t *testing.T) {
	s := start(t)
	s.good(allFirst)
	s.repo.Targets["targets"].Signed.Expires = days(-5)
	s.repo.Publish("targets", "snapshot", "timestamp")
	s.bad("root=1 snapshot=2 targets=1 timestamp=2")
}

func TestExpiredMetadataUpdates(t *testing.T) {
	s := start(t)
	s.repo.Timestamp.Signed.Expires = days(7)
	s.repo.Publish("timestamp")
	s.good("root=1 snapshot=1 targets=1 timestamp=2")
	s.repo.Timestamp.Signed.Expires = days(21)
	s.repo.Publish("targets", "snapshot", "timestamp")
	s.setTime(days(18))
	s.good("root=1 snapshot=2 targets=2 timestamp=3")
}

func delegated(s *suite, expires int) {
	s.repo.Delegate("targets", metadata.DelegatedRole{Name: "delegated", Paths: []string{"delegatedpath/*"}})
	s.repo.Targets["delegated"].Signed.Expires = days(expires)
	s.repo.AddTarget("delegated", "delegatedpath/first", []byte("first"))
	s.repo.AddTarget("delegated", "delegatedpath/second", []byte("second"))
	s.repo.Publish("delegated", "targets", "snapshot", "timestamp")
}

func TestDelegatedTargetsExpired(t *testing.T) {
	s := start(t)
	delegated(s, -1)
	s.good("root=1 snapshot=2 targets=2 timestamp=2")
	if s.download("delegatedpath/first") == nil {
		t.Error("a target of an expired role was downloaded")
	}
	s.holds(nil)
	s.trusts("root=1 snapshot=2 targets=2 timestamp=2")
}

func TestExpiredLocalDelegatedTargets(t *testing.T) {
	for _, renewed := range []bool{false, true} {
		s := start(t)
		delegated(s, 7)
		if err := s.download("delegatedpath/first"); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"delegatedpath/first": "first"}
		if renewed {
			s.repo.Targets["delegated"].Signed.Expires = days(21)
			s.repo.Publish("delegated", "snapshot", "timestamp")
			want["delegatedpath/second"] = "second"
		}
		s.setTime(days(18))
		if err := s.download("delegatedpath/second"); (err == nil) != renewed {
			t.Fatalf("renewed: %v, download: %v", renewed, err)
		}
		s.holds(want)
	}
}

func TestNonRootRotations(t *testing.T) {
	keys := signers(t, 6)
	for name, c := range map[string]rotation{
		"1 of 1":                         {[]int{2}, 1, []int{2}, true},
		"unused signatures":              {[]int{1}, 1, []int{3, 1, 4}, true},
		"not signed with the new key":    {[]int{2}, 1, []int{1, 3, 4}, false},
		"3 of 5, one signature is wrong": {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4}, false},
		"3 of 5, one is missing":         {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4}, false},
		"3 of 5":                         {[]int{0, 1, 2, 3, 4}, 3, []int{2, 3, 4}, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, role := range []string{"timestamp", "snapshot", "targets"} {
				s := start(t)
				s.repo.SetKeys(role, c.threshold, pick(keys, c.keys), pick(keys, c.sign))
				s.repo.PublishAll()
				if err := s.refresh(); (err == nil) != c.good {
					t.Fatalf("%s: refresh: %v", role, err)
				}
				if c.good && !bytes.Equal(s.stored(role), s.repo.Served[role][1]) {
					t.Errorf("%s: the stored file is another one", role)
				}
			}
		})
	}
}

type rotation struct {
	keys      []int
	threshold int
	sign      []int
	good      bool
}

func signers(t *testing.T, n int) []tuftest.Signer {
	var all []tuftest.Signer
	for range n {
		all = append(all, tuftest.NewSigner(t, "ed25519"))
	}
	return all
}

func pick(all []tuftest.Signer, which []int) []tuftest.Signer {
	var some []tuftest.Signer
	for _, i := range which {
		some = append(some, all[i])
	}
	return some
}

func TestRootRotation(t *testing.T) {
	keys := signers(t, 10)
	five := []int{0, 1, 2, 3, 4}
	for name, chain := range map[string][]rotation{
		"1 of 1":                          {{[]int{1}, 1, []int{1}, true}, {[]int{2}, 1, []int{2, 1}, true}, {[]int{2}, 1, []int{2}, true}},
		"unused signatures":               {{[]int{1}, 1, []int{3, 1, 4}, true}, {[]int{2}, 1, []int{3, 2, 1, 4}, true}, {[]int{2}, 1, []int{3, 2, 4}, true}},
		"3 of 5, other signers each time": {{five, 3, []int{0, 2, 4}, true}, {five, 3, []int{0, 4, 1}, true}, {five, 3, []int{0, 1, 3}, true}},
		"3 of 5, one rotated":             {{five, 3, []int{0, 2, 4}, true}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 1}, true}},
		"3 of 5, one rotated with step":   {{five, 3, []int{0, 2, 4}, true}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4, 5}, true}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 5}, true}},
		"3 of 5, all rotated":             {{five, 3, []int{0, 2, 4}, true}, {[]int{5, 6, 7, 8, 9}, 3, []int{0, 2, 4, 5, 6, 7}, true}, {[]int{5, 6, 7, 8, 9}, 3, []int{5, 6, 7}, true}},
		"threshold up":                    {{[]int{1, 2, 3}, 1, []int{1}, true}, {[]int{1, 2, 3}, 2, []int{1, 2}, true}},
		"threshold down":                  {{[]int{1, 2, 3}, 2, []int{1, 2}, true}, {[]int{1, 2, 3}, 1, []int{1, 2}, true}, {[]int{1, 2, 3}, 1, []int{1}, true}},
		"1 of 2 to 2 of 2":                {{[]int{1}, 1, []int{1}, true}, {[]int{1, 2}, 2, []int{1, 2}, true}},
		"not signed with the old key":     {{[]int{1}, 1, []int{1}, true}, {[]int{2}, 1, []int{2, 3, 4}, false}},
		"not signed with the new key":     {{[]int{1}, 1, []int{1}, true}, {[]int{2}, 1, []int{1, 3, 4}, false}},
		"3 of 5, not with 3 new keys":     {{five, 3, []int{0, 2, 4}, true}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4}, false}},
		"3 of 5, not with 3 old keys":     {{five, 3, []int{0, 2, 4}, true}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 5}, false}},
		"threshold up, not reached":       {{[]int{1, 2, 3}, 1, []int{1}, true}, {[]int{1, 2, 3}, 2, []int{2}, false}},
		"threshold down, old not reached": {{[]int{1, 2, 3}, 2, []int{1, 2}, true}, {[]int{1, 2, 3}, 1, []int{1}, false}},
	} {
		t.Run(name, func(t *testing.T) { rotateRoot(t, keys, chain) })
	}
}

func rotateRoot(t *testing.T, keys []tuftest.Signer, chain []rotation) {
	s := start(t)
	s.repo.Served["root"] = nil
	good := true
	for _, c := range chain {
		s.repo.SetKeys("root", c.threshold, pick(keys, c.keys), pick(keys, c.sign))
		s.repo.Publish("root")
		good = c.good
	}
	s.init(s.repo.Served["root"][0])
	if err := s.refresh(); (err == nil) != good {
		t.Fatalf("refresh: %v", err)
	}
	want := s.repo.Served["root"][len(chain)-1]
	if !good {
		want = s.repo.Served["root"][len(chain)-2]
	}
	if !bytes.Equal(s.stored("root"), want) {
		t.Error("the stored root is another one")
	}
}

func TestGraphTraversal(t *testing.T) {
	type d = [2]string
	for name, c := range map[string]struct {
		edges       []d // delegator and role
		terminating string
		narrow      []d // edges that cover *.py only
		want        []string
	}{
		"basic":                       {edges: []d{{"targets", "A"}}, want: []string{"A"}},
		"single level":                {edges: []d{{"targets", "A"}, {"targets", "B"}}, want: []string{"A", "B"}},
		"two levels":                  {edges: []d{{"targets", "A"}, {"targets", "B"}, {"B", "C"}}, want: []string{"A", "B", "C"}},
		"two levels, depth first":     {edges: []d{{"targets", "A"}, {"targets", "B"}, {"A", "C"}, {"A", "D"}}, want: []string{"A", "C", "D", "B"}},
		"three levels, depth first":   {edges: []d{{"targets", "A"}, {"targets", "B"}, {"A", "C"}, {"C", "D"}}, want: []string{"A", "C", "D", "B"}},
		"two levels, terminating":     {edges: []d{{"targets", "A"}, {"targets", "B"}, {"A", "C"}, {"A", "D"}}, terminating: "C", want: []string{"A", "C"}},
		"three levels, terminating":   {edges: []d{{"targets", "A"}, {"targets", "B"}, {"A", "C"}, {"C", "D"}}, terminating: "C", want: []string{"A", "C", "D"}},
		"two levels, paths":           {edges: []d{{"targets", "A"}, {"targets", "B"}, {"A", "C"}}, narrow: []d{{"targets", "A"}}, want: []string{"B"}},
		"three levels, paths":         {edges: []d{{"targets", "A"}, {"targets", "B"}, {"A", "C"}, {"C", "D"}}, narrow: []d{{"A", "C"}}, want: []string{"A", "B"}},
		"cycle":                       {edges: []d{{"targets", "A"}, {"targets", "B"}, {"B", "C"}, {"C", "D"}, {"D", "B"}}, want: []string{"A", "B", "C", "D"}},
		"two delegate to a third":     {edges: []d{{"targets", "A"}, {"targets", "B"}, {"B", "C"}, {"A", "C"}}, want: []string{"A", "C", "B"}},
		"two to a third, other paths": {edges: []d{{"targets", "A"}, {"targets", "B"}, {"B", "C"}, {"A", "C"}}, narrow: []d{{"A", "C"}}, want: []string{"A", "B", "C"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			for _, e := range c.edges {
				role := metadata.DelegatedRole{Name: e[1], Paths: []string{"*"}, Terminating: e[1] == c.terminating}
				if slices.Contains(c.narrow, e) {
					role.Paths = []string{"*.py"}
				}
				s.repo.Delegate(e[0], role)
			}
			s.repo.PublishAll()
			if s.download("missingpath") == nil {
				t.Fatal("download succeeded")
			}
			var want []string
			for _, role := range c.want {
				want = append(want, "1."+role+".json")
			}
			s.asked(append([]string{"2.root.json", "3.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"}, want...)...)
		})
	}
}

func TestTargetfileSearch(t *testing.T) {
	for path, c := range map[string]struct {
		found bool
		want  []string
	}{
		"targetfile":          {true, nil},
		"README.md":           {true, []string{"A"}},
		"releases/x/x_v1":     {true, []string{"B", "C"}},
		"releases/y/y_v1.zip": {true, []string{"B", "D"}},
		"releases/z/z_v1.zip": {false, []string{"B"}},
	} {
		t.Run(path, func(t *testing.T) {
			s := start(t)
			s.repo.Delegate("targets", metadata.DelegatedRole{Name: "A", Paths: []string{"*.doc", "*.md"}})
			s.repo.Delegate("targets", metadata.DelegatedRole{Name: "B", Paths: []string{"releases/*/*"}})
			s.repo.Delegate("B", metadata.DelegatedRole{Name: "C", Paths: []string{"releases/x/*"}})
			s.repo.Delegate("B", metadata.DelegatedRole{Name: "D", Paths: []string{"releases/y/*.zip"}})
			for name, role := range map[string]string{"targetfile": "targets", "README.md": "A", "releases/x/x_v1": "C", "releases/y/y_v1.zip": "D", "releases/z/z_v1.zip": "D"} {
				s.repo.AddTarget(role, name, []byte("content of "+name))
			}
			s.repo.PublishAll()
			err := s.download(path)
			if (err == nil) != c.found {
				t.Fatalf("download: %v", err)
			}
			want := []string{"2.root.json", "3.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"}
			for _, role := range c.want {
				want = append(want, "1."+role+".json")
			}
			s.asked(want...)
			if c.found {
				s.holds(map[string]string{path: "content of " + path})
			}
		})
	}
}
