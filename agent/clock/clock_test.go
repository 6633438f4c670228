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

// A stolen key dated a document ahead; only a newer root takes that back, and never
// below the build time.
func TestNewerRootAloneLowersTheFloor(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir, build.Add(time.Hour), true)
	ahead := build.AddDate(1, 0, 0)
	for _, c := range []struct {
		name   string
		root   int64
		issued time.Time
		want   time.Time
	}{
		{"first root", 3, ahead, ahead},
		{"same root, older document", 3, build.Add(time.Hour), ahead},
		{"older root", 2, build.Add(time.Hour), ahead},
		{"newer root", 4, build.Add(2 * time.Hour), build.Add(2 * time.Hour)},
		{"newer root, document older than the build", 5, build.AddDate(-1, 0, 0), build},
		{"same root, later document", 5, ahead, ahead},
	} {
		if err := k.RaiseUnder(c.root, c.issued); err != nil {
			t.Fatal(err)
		}
		if again := open(t, dir, build, true); !k.Floor().Equal(c.want) || !again.Floor().Equal(c.want) || again.Root() != k.Root() {
			t.Errorf("%s: floor %s, after a restart %s, want %s", c.name, k.Floor(), again.Floor(), c.want)
		}
	}
}

// A floor of a release that knew no roots is kept as it is.
func TestFloorOfAnEarlierReleaseIsKept(t *testing.T) {
	dir := t.TempDir()
	ahead := build.AddDate(0, 3, 0)
	if err := os.WriteFile(filepath.Join(dir, "time-floor.json"), []byte(`{"v":1,"floor":"`+ahead.Format(time.RFC3339)+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	k := open(t, dir, build, true)
	if err := k.RaiseUnder(7, build); err != nil {
		t.Fatal(err)
	}
	if again := open(t, dir, build, true); !again.Floor().Equal(ahead) || again.Root() != 7 {
		t.Errorf("floor %s under root %d, want %s", again.Floor(), again.Root(), ahead)
	}
}
