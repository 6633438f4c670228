package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
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

func TestAnUnknownLineIsRefused(t *testing.T) {
	for _, arg := range []string{"18", "0", "x"} {
		if err := run(t.Context(), []string{arg}, &bytes.Buffer{}); err == nil {
			t.Errorf("%s: accepted", arg)
		}
	}
}
