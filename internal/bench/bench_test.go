package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheBudgetHasAllSeventeenLines(t *testing.T) {
	lines := budget()
	if len(lines) != 17 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, l := range lines {
		if l.number != i+1 || l.what == "" || l.limit == "" {
			t.Errorf("line %d is %+v", i+1, l)
		}
	}
}

func TestOverBudgetFailsAndTheOthersAreStillMeasured(t *testing.T) {
	gives := func(f figure, err error) func(context.Context) (figure, error) {
		return func(context.Context) (figure, error) { return f, err }
	}
	var out bytes.Buffer
	err := table(t.Context(), []line{
		{1, "big", "1 MB", gives(figure{text: "2 MB", over: true}, nil)},
		{2, "broken", "1", gives(figure{}, errors.New("no such part"))},
		{3, "later", "1", nil},
		{4, "absent", "1", gives(figure{text: "no agent", notBuilt: true}, nil)},
		{5, "fine", "1", gives(figure{text: "0.5"}, nil)},
	}, &out)
	if err == nil || !strings.HasSuffix(err.Error(), "line 1, 2") {
		t.Errorf("got %v", err)
	}
	for i, want := range []string{"OVER", "ERROR", "not built", "not built: no agent", "ok"} {
		if row := strings.Split(out.String(), "\n")[i]; !strings.Contains(row, want) {
			t.Errorf("row %q, want %q", row, want)
		}
	}
}

func TestAnInstallIsJudgedByMemoryAndByRAUCWhereItRan(t *testing.T) {
	lean := installed{cost{time.Second, 10e6}, cost{time.Second, 10e6}}
	fat := installed{cost{time.Second, 10e6}, cost{time.Second, 15e6}}
	for _, c := range []struct {
		name string
		full installed
		rauc time.Duration
		why  error
		over bool
	}{
		{"cheaper than RAUC", lean, 3 * time.Second, nil, false},
		{"dearer than RAUC", lean, 2 * time.Second, nil, true},
		{"no RAUC", lean, 0, errors.New("not installed"), false},
		{"too large for both processes together", fat, 3 * time.Second, nil, true},
		{"too large, no RAUC", fat, 0, errors.New("not installed"), true},
	} {
		f := compare(c.full, lean, time.Second/2, cost{cpu: c.rauc}, c.why)
		if f.over != c.over {
			t.Errorf("%s: over is %t: %s", c.name, f.over, f.text)
		}
		if said := strings.Contains(f.text, "RAUC was not run (not installed)"); said != (c.why != nil) {
			t.Errorf("%s: %s", c.name, f.text)
		}
	}
}

func TestAnotherImageInTheSlotIsSeen(t *testing.T) {
	dir := t.TempDir()
	image, slot := filepath.Join(dir, "image"), filepath.Join(dir, "slot")
	for content, want := range map[string]bool{"abc": true, "abcd": true, "abx": false, "ab": false} {
		if err := errors.Join(os.WriteFile(image, []byte("abc"), 0o600), os.WriteFile(slot, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := same(image, slot); (err == nil) != want {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestAnUnknownLineIsRefused(t *testing.T) {
	for _, arg := range []string{"18", "0", "x"} {
		if err := run(t.Context(), []string{arg}, &bytes.Buffer{}); err == nil {
			t.Errorf("%s: accepted", arg)
		}
	}
}
