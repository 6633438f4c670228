package registry_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

const (
	killPath   = "GATEWARDEN_TEST_KILL_DB"   // set in the child: the database it writes to
	killWhat   = "GATEWARDEN_TEST_KILL_WHAT" // set in the child: "issue" instead of messages
	killDevice = "gw-aaaaaaaaaaaaaaaa"
)

// TestMain lets the kill test run this binary as the server that dies.
func TestMain(m *testing.M) {
	if path := os.Getenv(killPath); path != "" {
		forEver := acceptForEver
		if os.Getenv(killWhat) == "issue" {
			forEver = issueForEver
		}
		if err := forEver(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// acceptForEver takes in messages from where the last run ended and prints each
// that it would acknowledge. The process is killed while it does so.
func acceptForEver(path string) error {
	s, err := registry.OpenSQLite(path)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, _, err := s.Enroll(ctx, registry.Device{ID: killDevice, EKName: []byte("ek")}); err != nil {
		return err
	}
	for seq := uint64(1); ; {
		_, upTo, err := s.Accept(ctx, registry.Message{
			Device: killDevice, Stream: "s", Seq: seq, Prev: seq - 1, Kind: "linktest", Body: json.RawMessage(strconv.FormatUint(seq, 10)),
			Timeline: []registry.Event{{Kind: "k", Severity: registry.Info, Text: strconv.FormatUint(seq, 10)}},
		})
		if err != nil {
			return err
		}
		if upTo < seq {
			return fmt.Errorf("message %d was not taken in: up to %d", seq, upTo)
		}
		fmt.Println(upTo)
		seq = upTo + 1
	}
}

func TestPowerCutLosesNothingThatWasAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	acked := uint64(0)
	for round := range 5 {
		acked = max(acked, runAndKill(t, path, acked, 20+7*round))
	}
	s := open(t, path)
	ms, err := s.Messages(t.Context(), killDevice, "linktest", registry.MaxMessages)
	if err != nil {
		t.Fatal(err)
	}
	if n := uint64(len(ms)); n < acked {
		t.Fatalf("%d messages stored, %d acknowledged", n, acked)
	}
	for i, m := range ms {
		if want := uint64(len(ms) - i); m.Seq != want || string(m.Body) != fmt.Sprint(want) {
			t.Fatalf("message %d at the place of %d", m.Seq, want)
		}
	}
	events := 0
	for before := int64(0); ; {
		page, err := s.Events(t.Context(), killDevice, before, registry.MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		events, before = events+len(page), page[len(page)-1].ID
	}
	if events != len(ms) {
		t.Errorf("%d effects of %d messages", events, len(ms))
	}
}

// runAndKill starts the server, kills it after n acknowledgements above acked and
// returns the highest acknowledgement that came out.
func runAndKill(t *testing.T, path string, acked uint64, n int) (seen uint64) {
	t.Helper()
	fresh := 0
	killWhen(t, path, func(line string) bool {
		var err error
		if seen, err = strconv.ParseUint(line, 10, 64); err != nil {
			t.Fatalf("the server said %q", line)
		}
		if seen > acked {
			fresh++
		}
		return fresh == n
	})
	if fresh < n {
		t.Fatalf("the server ended by itself after %d messages", fresh)
	}
	return seen
}

// killWhen starts the server, kills it when enough says so of a line that came out,
// and takes in what else it had said.
func killWhen(t *testing.T, path string, enough func(line string) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), killPath+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if enough(lines.Text()) {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the server ended by itself")
	}
}

// issueForEver journals certificates, sixteen at a time and each by a ticket, and
// prints the number of each that may leave.
func issueForEver(path string) error {
	s, err := registry.OpenSQLite(path)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, _, err := s.Enroll(ctx, registry.Device{ID: killDevice, EKName: []byte("ek")}); err != nil {
		return err
	}
	if err := s.SetState(ctx, killDevice, registry.Active, "alice", "", time.Unix(1, 0)); err != nil {
		return err
	}
	var next atomic.Uint64
	next.Store(uint64(time.Now().UnixNano())) // above all of the runs before
	var group errgroup.Group
	for range 16 {
		group.Go(func() error {
			for {
				n := strconv.FormatUint(next.Add(1), 10)
				if err := s.PutTicket(ctx, registry.Ticket{ID: n, Device: killDevice, AKPublic: []byte("ak"), Expires: time.Unix(2000, 0)}); err != nil {
					return err
				}
				c := registry.Certificate{Serial: n, Device: killDevice, NotAfter: time.Unix(2000, 0), IssuedAt: time.Unix(1000, 0), DER: []byte(n)}
				if err := s.AddCertificate(ctx, c, n); err != nil {
					return err
				}
				fmt.Println(n)
			}
		})
	}
	return group.Wait()
}

func TestCertificateThatLeftIsInTheJournalAfterAPowerCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	t.Setenv(killWhat, "issue")
	var left []string
	for round := range 4 {
		left = append(left, issueAndKill(t, path, 20+13*round)...)
	}
	s := open(t, path)
	for _, serial := range left {
		c, err := s.Certificate(t.Context(), serial)
		if err != nil || string(c.DER) != serial {
			t.Errorf("certificate %s left and is not in the journal: %v", serial, err)
		}
		if _, err := s.Ticket(t.Context(), serial, time.Unix(1000, 0)); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("its ticket is good still: %v", err)
		}
	}
}

// issueAndKill starts the server, kills it after n certificates, and returns those
// that left.
func issueAndKill(t *testing.T, path string, n int) (left []string) {
	t.Helper()
	killWhen(t, path, func(line string) bool {
		left = append(left, line)
		return len(left) == n
	})
	if len(left) < n {
		t.Fatalf("the server ended by itself after %d certificates", len(left))
	}
	return left
}
