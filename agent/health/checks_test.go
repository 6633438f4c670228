package health

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type want struct{ status, text string }

func (w want) check(t *testing.T, what, status, summary string) {
	t.Helper()
	if status != w.status || !strings.Contains(summary, w.text) {
		t.Errorf("%s: got %s, %q; want %s, ...%s...", what, status, summary, w.status, w.text)
	}
}

func TestDiskWarnsBelow15AndIsCriticalBelow5Percent(t *testing.T) {
	for _, c := range []struct {
		free, inodes uint64
		want         want
	}{
		{150, 1000, want{OK, "15 % of space free"}},
		{149, 1000, want{Warning, "14 % of space free"}},
		{50, 1000, want{Warning, "5 % of space free"}},
		{49, 1000, want{Critical, "4 % of space free"}},
		{900, 20, want{Critical, "2 % of inodes free"}},
	} {
		status, summary := judgeDisk("/s", 1000, c.free, 1000, c.inodes, 1<<20)
		c.want.check(t, "disk", status, summary)
	}
	status, summary := judgeDisk("/s", 1000, 900, 0, 0, 4096)
	want{OK, "90 % of space"}.check(t, "no fixed inodes", status, summary)
	status, summary = judgeDisk("/s", 0, 0, 0, 0, 4096)
	want{Unknown, "no size"}.check(t, "no size", status, summary)
}

func TestDiskAsksTheRealFileSystem(t *testing.T) {
	status, summary := disk(t.TempDir()).Run(t.Context())
	if status == Unknown {
		t.Errorf("got %s, %q", status, summary)
	}
	status, summary = disk("/nonexistent/folder").Run(t.Context())
	want{Unknown, "no such file"}.check(t, "missing folder", status, summary)
}

func TestCertificateIsJudgedByItsLife(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := start.Add(100 * time.Hour)
	for hours, w := range map[int]want{
		-1:  {Warning, "is the clock right?"},
		0:   {OK, "valid until 2026-01-05 04:00 UTC"},
		80:  {OK, "valid until"},
		81:  {Warning, "renewal is late"},
		90:  {Warning, "renewal is late"},
		91:  {Critical, "not renewed in time"},
		100: {Critical, "expired on"},
		999: {Critical, "expired on"},
	} {
		found := func() (time.Time, time.Time, bool) { return start, end, true }
		now := func() time.Time { return start.Add(time.Duration(hours) * time.Hour) }
		status, summary := certificate(found, now).Run(t.Context())
		w.check(t, "after hours", status, summary)
	}
	none := func() (time.Time, time.Time, bool) { return time.Time{}, time.Time{}, false }
	status, summary := certificate(none, time.Now).Run(t.Context())
	want{Unknown, "no certificate yet"}.check(t, "none", status, summary)
	status, summary = judgeCertificate(end, start, end)
	want{Unknown, "no sense"}.check(t, "reversed", status, summary)
}

func TestSecureBootReadsTheVariable(t *testing.T) {
	for content, w := range map[string]want{
		"\x06\x00\x00\x00\x01":     {OK, "is on"},
		"\x06\x00\x00\x00\x00":     {Warning, "is off"},
		"\x06\x00\x00\x00\x02":     {Unknown, "malformed"},
		"\x06\x00\x00\x00":         {Unknown, "malformed"},
		"":                         {Unknown, "malformed"},
		"\x06\x00\x00\x00\x01\x01": {Unknown, "malformed"},
		strings.Repeat("\x01", 99): {Unknown, "malformed"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, secureBootVariable), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		status, summary := secureBoot(dir).Run(t.Context())
		w.check(t, "variable", status, summary)
	}
	status, summary := secureBoot(t.TempDir()).Run(t.Context())
	want{Warning, "no Secure Boot"}.check(t, "no variable", status, summary)
	status, summary = secureBoot("/nonexistent/efivars").Run(t.Context())
	want{Unknown, "no EFI machine"}.check(t, "no EFI", status, summary)
}

func TestClockIsSynchronisedOnlyIfTheKernelSaysSo(t *testing.T) {
	for _, c := range []struct {
		state  int
		status int32
		want   want
	}{
		{unix.TIME_OK, unix.STA_PLL, want{OK, "is synchronised"}},
		{unix.TIME_INS, 0, want{OK, "is synchronised"}},
		{unix.TIME_OK, unix.STA_UNSYNC, want{Warning, "not synchronised"}},
		{unix.TIME_ERROR, 0, want{Warning, "not synchronised"}},
	} {
		status, summary := judgeClock(c.state, c.status)
		c.want.check(t, "clock", status, summary)
	}
	if status, summary := timeSync().Run(t.Context()); status != OK && status != Warning && status != Unknown || summary == "" {
		t.Errorf("the kernel's own answer: %s, %q", status, summary)
	}
}

func TestFailedUnitsAreNamedAtMostFive(t *testing.T) {
	for _, c := range []struct {
		names string
		want  want
	}{
		{"", want{OK, "no unit"}},
		{"b.service", want{Warning, "1 unit has failed: b.service"}},
		{"c b a", want{Warning, "3 units have failed: a, b, c"}},
		{"g f e d c b a", want{Warning, "7 units have failed: a, b, c, d, e and 2 more"}},
	} {
		status, summary := judgeUnits(strings.Fields(c.names))
		c.want.check(t, c.names, status, summary)
	}
}

func TestNoBusIsUnknownNotHealthy(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	status, summary := units().Run(ctx)
	want{Unknown, "can't ask systemd"}.check(t, "no bus", status, summary)
}

func TestAllRuns(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
	checks, err := All(Deps{StateFolder: t.TempDir(), EFIVars: DefaultEFIVars, Services: DefaultServices, Now: time.Now,
		Certificate: func() (time.Time, time.Time, bool) { return time.Time{}, time.Time{}, false }})
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range checks {
		if _, summary := answer(check.Run(t.Context())); summary == "" {
			t.Errorf("%s says nothing", check.Name)
		}
	}
}

func answer(status, summary string) (string, string) { return valid(outcome{status, summary}) }
