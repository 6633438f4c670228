package main

import (
	"testing"

	"github.com/gatewarden/gatewarden/agent/health"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/cli"
)

func code(err error) int {
	if err == nil {
		return cli.OK
	}
	return int(err.(cli.Exit)) //nolint:errorlint // these functions return it bare
}

func TestExitCodesAreThoseOfTheHelp(t *testing.T) {
	for grade, want := range map[string]int{health.OK: 0, health.Warning: 3, health.Unknown: 3, health.Critical: 4} {
		if got := code(healthExit(grade)); got != want {
			t.Errorf("health %s: exit code %d, want %d", grade, got, want)
		}
	}
	for grade, want := range map[attest.Grade]int{attest.Trusted: 0, attest.Degraded: 3, attest.Untrusted: 4, "": 4} {
		if got := code(gradeExit(grade)); got != want {
			t.Errorf("verdict %q: exit code %d, want %d", grade, got, want)
		}
	}
}
