package clock

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

var build = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, now time.Time, synced bool) *Clock {
	t.Helper()
	k, err := New(Config{FS: &fsx.FS{}, Dir: dir, Build: build, Now: func() time.Time { return now }, Synced: func() bool { return synced }})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestClockAt1970IsNotBelievedAndNeverBelowTheFloor(t *testing.T) {
	k := open(t, t.TempDir(), time.Unix(0, 0), true)
	if now, trusted := k.Now(); trusted || !now.Equal(build) {
		t.Fatalf("1970 gave %v, trusted %v", now, trusted)
	}
}

func TestUnsynchronisedClockIsAHintOnly(t *testing.T) {
	dir := t.TempDir()
	future := build.AddDate(10, 0, 0)
	k := open(t, dir, future, false)
	if now, trusted := k.Now(); trusted || !now.Equal(future) {
		t.Fatalf("got %v, trusted %v", now, trusted)
	}
	if again := open(t, dir, build.Add(time.Hour), true); again.Floor().After(build) {
		t.Fatalf("a clock ten years ahead raised the stored floor to %v", again.Floor())
	}
}

func TestFloorRisesFromSignedTimeAndSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir, build.Add(time.Hour), true)
	signed := build.AddDate(0, 1, 0)
	if err := k.Raise(signed); err != nil {
		t.Fatal(err)
	}
	if err := k.Raise(build); err != nil {
		t.Fatal(err)
	}
	if again := open(t, dir, build, true); !again.Floor().Equal(signed) {
		t.Fatalf("floor after restart is %v, want %v", again.Floor(), signed)
	}
}

func TestDamagedFloorFileFallsBackToTheBuildTime(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "time-floor.json"), []byte(`{"v":1,"fl`), 0o600); err != nil {
		t.Fatal(err)
	}
	if k := open(t, dir, build, true); !k.Floor().Equal(build) {
		t.Fatalf("floor is %v", k.Floor())
	}
}
