package main

import (
	"fmt"
	"testing"
)

func TestSimpleSnapshotRollback(t *testing.T) {
	s := start(t)
	s.repo.Publish("snapshot", "timestamp")
	s.good("root=1 snapshot=2 targets=1 timestamp=2")
	s.repo.Served["snapshot"][1] = s.repo.Served["snapshot"][0]
	s.good("root=1 snapshot=2 targets=1 timestamp=2")
	s.lastAsked("timestamp.json")
}

func TestNewTimestampVersionRollback(t *testing.T) {
	s := start(t)
	s.repo.Publish("timestamp")
	s.good("root=1 snapshot=1 targets=1 timestamp=2")
	s.repo.SetVersion("timestamp", 1)
	s.repo.Publish("timestamp")
	s.bad("root=1 snapshot=1 targets=1 timestamp=2")
	s.lastAsked("timestamp.json")
}

func TestSnapshotRollback(t *testing.T) {
	for _, hashes := range []bool{false, true} {
		t.Run(fmt.Sprint("hashes ", hashes), func(t *testing.T) {
			s := start(t)
			s.repo.Hashes = hashes
			s.repo.Publish("snapshot", "timestamp")
			s.good("root=1 snapshot=2 targets=1 timestamp=2")
			s.repo.SetVersion("snapshot", 1)
			s.repo.Publish("snapshot", "timestamp")
			s.bad("root=1 snapshot=2 targets=1 timestamp=2")
			s.lastAsked("timestamp.json")
		})
	}
}

func TestTargetsRollback(t *testing.T) {
	for _, hashes := range []bool{false, true} {
		t.Run(fmt.Sprint("hashes ", hashes), func(t *testing.T) {
			s := start(t)
			s.repo.Hashes = hashes
			s.repo.Publish("targets", "snapshot", "timestamp")
			s.good("root=1 snapshot=2 targets=2 timestamp=2")
			s.repo.SetVersion("targets", 1)
			s.repo.Publish("targets", "snapshot", "timestamp")
			s.bad("root=1 snapshot=2 targets=2 timestamp=3")
			s.lastAsked("3.snapshot.json")
		})
	}
}

func TestNewSnapshotVersionMismatch(t *testing.T) {
	s := start(t)
	s.repo.SetVersion("snapshot", 7)
	s.repo.Publish("snapshot")
	s.repo.Timestamp.Signed.Meta["snapshot.json"].Version = 2
	s.repo.Publish("timestamp")
	s.bad("root=1 timestamp=2")
	s.lastAsked("2.snapshot.json")
}

func TestTargetsFastForwardRecovery(t *testing.T) {
	s := start(t)
	s.repo.SetVersion("targets", 99999)
	s.repo.Publish("targets", "snapshot", "timestamp")
	s.repo.Served["targets"] = pad(s.repo.Served["targets"], 99999)
	s.good("root=1 snapshot=2 targets=99999 timestamp=2")
	s.repo.Rotate("snapshot")
	s.repo.SetVersion("targets", 2) // a first publication is not counted up
	s.repo.Served["targets"] = nil
	s.repo.Publish("root", "targets", "snapshot", "timestamp")
	s.good("root=2 snapshot=3 targets=1 timestamp=3")
}

func TestNewSnapshotFastForwardRecovery(t *testing.T) {
	// The stored timestamp still verifies where the snapshot key alone is replaced,
	// and lists the high version: it must be forgotten nevertheless.
	for _, roles := range [][]string{{"snapshot"}, {"snapshot", "timestamp"}} {
		s := start(t)
		s.repo.SetVersion("snapshot", 99999)
		s.repo.Publish("snapshot", "timestamp")
		s.repo.Served["snapshot"] = pad(s.repo.Served["snapshot"], 99999)
		s.good("root=1 snapshot=99999 targets=1 timestamp=2")
		for _, role := range roles {
			s.repo.Rotate(role)
		}
		s.repo.Served["snapshot"] = s.repo.Served["snapshot"][:1]
		s.repo.SetVersion("snapshot", 2)
		s.repo.Publish("root", "snapshot", "timestamp")
		s.good("root=2 snapshot=2 targets=1 timestamp=3")
	}
}

func TestNewTimestampFastForwardRecovery(t *testing.T) {
	s := start(t)
	s.repo.SetVersion("timestamp", 99999)
	s.repo.Publish("timestamp")
	s.good("root=1 snapshot=1 targets=1 timestamp=99999")
	s.repo.Rotate("timestamp")
	s.repo.SetVersion("timestamp", 1)
	s.repo.Publish("root", "timestamp")
	s.good("root=2 snapshot=1 targets=1 timestamp=1")
}

// pad serves the last file as version n.
func pad(files [][]byte, n int) [][]byte {
	all := make([][]byte, n)
	copy(all, files[:len(files)-1])
	all[n-1] = files[len(files)-1]
	return all
}
