package update

import (
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/update/release"
)

func TestConfirmComparesWithBefore(t *testing.T) {
	criteria := release.Confirm{
		Checks: []release.Criterion{{Check: "disk", Within: 10}, {Check: "units", Within: 30}}, Link: true, Verdict: true, Timeout: 60,
	}
	state := func(disk, units string, link bool, verdict string) Condition {
		c := Condition{Checks: map[string]string{}, Link: link, Verdict: verdict}
		if disk != "" {
			c.Checks["disk"] = disk
		}
		if units != "" {
			c.Checks["units"] = units
		}
		return c
	}
	fine := state("ok", "ok", true, "trusted")
	for name, c := range map[string]struct {
		before, now Condition
		after       int // seconds
		want        judgement
	}{
		"all as before":                     {fine, fine, 1, judgement{Passed: true}},
		"not ready yet":                     {fine, state("", "", false, ""), 9, judgement{}},
		"check has not run in time":         {fine, state("", "ok", true, "trusted"), 10, judgement{Rule: "disk"}},
		"later check still has time":        {fine, state("ok", "critical", true, "trusted"), 29, judgement{}},
		"later check is out of time":        {fine, state("ok", "critical", true, "trusted"), 30, judgement{Rule: "units"}},
		"degraded before and now":           {state("warning", "critical", true, "degraded"), state("warning", "critical", true, "degraded"), 1, judgement{Passed: true}},
		"better than before":                {state("warning", "critical", true, "degraded"), fine, 1, judgement{Passed: true}},
		"one status worse":                  {state("warning", "ok", true, "trusted"), state("critical", "ok", true, "trusted"), 10, judgement{Rule: "disk"}},
		"unknown before and now":            {state("unknown", "ok", true, "trusted"), state("unknown", "ok", true, "trusted"), 1, judgement{Passed: true}},
		"unknown before, bad now":           {state("unknown", "ok", true, "trusted"), state("critical", "ok", true, "trusted"), 10, judgement{Rule: "disk"}},
		"new check must be ok":              {state("", "ok", true, "trusted"), state("warning", "ok", true, "trusted"), 10, judgement{Rule: "disk"}},
		"unheard-of status is bad":          {state("critical", "ok", true, "trusted"), state("superb", "ok", true, "trusted"), 10, judgement{Rule: "disk"}},
		"link gone":                         {fine, state("ok", "ok", false, ""), 60, judgement{Rule: "link"}},
		"link gone but there is time":       {fine, state("ok", "ok", false, ""), 59, judgement{}},
		"no verdict in time":                {fine, state("ok", "ok", true, ""), 60, judgement{Rule: "verdict"}},
		"verdict fell":                      {fine, state("ok", "ok", true, "degraded"), 60, judgement{Rule: "verdict"}},
		"verdict rose":                      {state("ok", "ok", true, "degraded"), fine, 1, judgement{Passed: true}},
		"no link before":                    {state("ok", "ok", false, ""), state("ok", "ok", false, ""), 1, judgement{Passed: true, Pending: true}},
		"no verdict before":                 {state("ok", "ok", true, ""), state("ok", "ok", true, ""), 1, judgement{Passed: true, Pending: true}},
		"untrusted before":                  {state("ok", "ok", true, "untrusted"), state("ok", "ok", false, ""), 1, judgement{Passed: true, Pending: true}},
		"verdict on disk but no link":       {state("ok", "ok", false, "trusted"), state("ok", "ok", false, ""), 1, judgement{Passed: true, Pending: true}},
		"dead fleet does not excuse a disk": {state("ok", "ok", false, ""), state("critical", "ok", false, ""), 10, judgement{Rule: "disk"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := compare(criteria, &c.before, c.now, time.Duration(c.after)*time.Second)
			if (got.Text != "") != (got.Rule != "") {
				t.Errorf("text %q goes with rule %q", got.Text, got.Rule)
			}
			got.Text = ""
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestReleaseThatAsksForNoVerdictIsNotPending(t *testing.T) {
	now := Condition{Checks: map[string]string{}}
	if got := compare(release.Confirm{Link: true, Timeout: 1}, nil, now, 0); !got.Passed || got.Pending {
		t.Errorf("got %+v", got)
	}
}

func TestRestsDoubleUpToALimitAndAreNeverZero(t *testing.T) {
	for failures := 1; failures < 100; failures++ {
		span := min(time.Second<<min(failures-1, 30), time.Minute)
		if got := backoff(time.Second, time.Minute, failures, 0); got != span/10 {
			t.Errorf("%d failures: at least %v, want %v", failures, got, span/10)
		}
		if got := backoff(time.Second, time.Minute, failures, 0.9999); got > span || got < span*99/100 {
			t.Errorf("%d failures: at most %v, want %v", failures, got, span)
		}
	}
}
