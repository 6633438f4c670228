package main

import (
	"bytes"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestBasicRefresh(t *testing.T) {
	s := start(t)
	s.good(allFirst)
	s.asked("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json")
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		if !bytes.Equal(s.stored(role), s.repo.Served[role][0]) {
			t.Errorf("%s is not stored as it was served", role)
		}
	}
	s.good(allFirst)
	s.asked("2.root.json", "timestamp.json")
}

func TestImplicitRefresh(t *testing.T) {
	s := start(t)
	if s.download("nonexistent artifact") == nil {
		t.Error("download succeeded")
	}
	s.asked("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json")
	s.trusts(allFirst)
}

func TestInvalidAndUnsignedInitialRootAskForNothing(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"invalid":  func(f map[string]any) { delete(f["signed"].(map[string]any), "version") },
		"unsigned": func(f map[string]any) { f["signatures"].([]any)[0].(map[string]any)["sig"] = "00ff" },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.repo.Alter("root", change)
			s.init(s.repo.Served["root"][0])
			s.bad("")
			s.asked()
		})
	}
}

func TestUnsignedMetadata(t *testing.T) {
	for role, want := range map[string]string{
		"root": "root=1", "timestamp": "root=2", "snapshot": "root=2 timestamp=2", "targets": "root=2 snapshot=2 timestamp=2",
	} {
		t.Run(role, func(t *testing.T) {
			s := start(t)
			s.repo.Signers[role] = nil
			s.repo.PublishAll()
			s.bad(want)
		})
	}
}

func TestURLAndMetadataVersionMismatch(t *testing.T) {
	for role, want := range map[string]string{
		"root": "root=1", "snapshot": "root=2 timestamp=2", "targets": "root=2 snapshot=2 timestamp=2",
	} {
		t.Run(role, func(t *testing.T) {
			s := start(t)
			s.repo.SetVersion(role, 3)
			s.repo.PublishAll() // serves version 3 as the second
			if role != "root" {
				// What lists the file must name the URL's version.
				s.repo.Snapshot.Signed.Meta["targets.json"].Version = 2
				s.repo.Timestamp.Signed.Meta["snapshot.json"].Version = 2
				s.repo.Served["snapshot"] = s.repo.Served["snapshot"][:1]
				s.repo.Served["timestamp"] = s.repo.Served["timestamp"][:1]
				s.repo.SetVersion("timestamp", 2)
				if role == "targets" {
					s.repo.SetVersion("snapshot", 2)
				} else {
					s.repo.SetVersion("snapshot", 3)
				}
				s.repo.Publish("snapshot")
				s.repo.Timestamp.Signed.Meta["snapshot.json"].Version = 2
				s.repo.Publish("timestamp")
			}
			s.bad(want)
		})
	}
}

func TestTimestampContentChanges(t *testing.T) {
	s := start(t)
	s.good(allFirst)
	s.repo.Timestamp.Signed.Meta["snapshot.json"].Version = 100
	s.repo.Served["timestamp"] = nil
	s.repo.Publish("timestamp") // version 1 again
	s.good(allFirst)
	s.lastAsked("timestamp.json")
	if bytes.Equal(s.stored("timestamp"), s.repo.Served["timestamp"][0]) {
		t.Error("a timestamp of the same version took the other's place")
	}
}

func TestBasicMetadataHashSupport(t *testing.T) {
	s := start(t)
	s.repo.Hashes = true
	s.repo.Publish("targets", "snapshot", "timestamp")
	s.good("root=1 snapshot=2 targets=2 timestamp=2")
	s.repo.Publish("targets")
	s.repo.Snapshot.Signed.Meta["targets.json"].Hashes["sha256"][0] ^= 1
	s.repo.Publish("snapshot", "timestamp")
	s.bad("root=1 snapshot=3 targets=2 timestamp=3")
}

func TestMetadataBytesMatch(t *testing.T) {
	s := start(t)
	data := append(bytes.Clone(s.repo.Served["timestamp"][0]), ' ')
	s.repo.Served["timestamp"][0] = data
	s.good(allFirst)
	if !bytes.Equal(s.stored("timestamp"), data) {
		t.Error("the timestamp was stored in another form")
	}
}

func TestCustomFields(t *testing.T) {
	s := start(t)
	s.good(allFirst)
	s.repo.Edit = func(_ string, signed map[string]any) {
		signed["custom-field"] = []any{"value", true, nil, map[string]any{"ä\n\"\\": 1}}
		signed["keys"].(map[string]any)[s.repo.Signers["root"][0].ID].(map[string]any)["extra-field"] = map[string]any{"a": 1}
		signed["roles"].(map[string]any)["root"].(map[string]any)["another-field"] = "value"
	}
	s.repo.Publish("root")
	s.good("root=2 snapshot=1 targets=1 timestamp=1")
}

func TestDeprecatedKeyidHashAlgorithms(t *testing.T) {
	s := start(t)
	s.repo.Edit = func(_ string, signed map[string]any) {
		for _, key := range signed["keys"].(map[string]any) {
			key.(map[string]any)["keyid_hash_algorithms"] = "md5"
		}
	}
	s.repo.Publish("root")
	s.good("root=2 snapshot=1 targets=1 timestamp=1")
}

func TestFileIsMissing(t *testing.T) {
	t.Run("snapshot", func(t *testing.T) {
		s := start(t)
		s.good(allFirst)
		s.repo.Timestamp.Signed.Meta["snapshot.json"].Version++
		s.repo.Publish("timestamp")
		s.bad("root=1 snapshot=1 targets=1 timestamp=2")
		s.lastAsked("2.snapshot.json")
	})
	t.Run("targets", func(t *testing.T) {
		s := start(t)
		s.good(allFirst)
		s.repo.Snapshot.Signed.Meta["targets.json"].Version++
		s.repo.Publish("snapshot", "timestamp")
		s.bad("root=1 snapshot=2 targets=1 timestamp=2")
		s.lastAsked("2.targets.json")
	})
	t.Run("timestamp", func(t *testing.T) {
		s := start(t)
		s.good(allFirst)
		delete(s.repo.Served, "timestamp")
		s.bad(allFirst)
		s.lastAsked("timestamp.json")
	})
}

func TestIncorrectMetadataType(t *testing.T) {
	s := start(t)
	s.repo.AddKey("snapshot", s.repo.Signers["timestamp"][0])
	s.repo.Snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": {Version: 1}}
	s.repo.Publish("root", "snapshot")
	s.repo.Served["timestamp"] = append(s.repo.Served["timestamp"], s.repo.Served["snapshot"][1])
	s.bad("root=2")
}

func TestFakeTime(t *testing.T) {
	s := start(t)
	s.repo.Root.Signed.Expires = days(7)
	s.repo.Publish("root")
	s.good("root=2 snapshot=1 targets=1 timestamp=1")
	s.setTime(days(8))
	s.bad("root=2 snapshot=1 targets=1 timestamp=1")
}

func TestUnusualRoleNames(t *testing.T) {
	for role, want := range map[string]string{
		"?": "1.%3F.json", "#": "1.%23.json", "/delegatedrole": "1.%2Fdelegatedrole.json", "../delegatedrole": "1...%2Fdelegatedrole.json", "..": "1....json",
	} {
		t.Run(role, func(t *testing.T) {
			s := start(t)
			s.repo.Delegate("targets", metadata.DelegatedRole{Name: role, Paths: []string{"*"}})
			s.repo.Publish(role, "targets", "snapshot", "timestamp")
			if s.download("nonexistent target") == nil {
				t.Fatal("download succeeded")
			}
			s.lastAsked(want)
			if all := dirs(t, s.meta); len(all) != 5 {
				t.Errorf("trusted files are %q, want 5", all)
			}
		})
	}
}
