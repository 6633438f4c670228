// Package helper is the process that runs as root. It talks to one local socket
// and to nobody else, knows a short fixed list of verbs, and obeys no one's word:
// a verb that changes the system takes the object that authorises it, and the
// helper verifies that against its own policy, its own idea of time and its own
// run-once ledger. Whoever takes over the agent gains nothing here.
//
// Trust and state folders belong to root. Device id and fleet are derived from
// the TPM and the helper's own documents.
package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/helper/trust"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/ledger"
)

const (
	maxConnections = 8                // at a time, count; more are closed unread
	frameTimeout   = 5 * time.Second  // for a request to arrive, and for an answer to be taken
	verbTimeout    = 20 * time.Second // for a verb to be done
)

// Config of the helper. Idle, EventLog, IMALog and Updates may be zero; all else is
// required.
type Config struct {
	Listener *net.UnixListener // Listen's or Activated's; Run closes it
	PeerUID  int               // the only user that may ask
	Trust    string            // folder with the signed policy documents
	State    string            // folder of the helper's own records
	EventLog string            // the firmware's event log; "" where the machine has none
	IMALog   string            // the kernel's IMA list; "" where the machine has none
	Software string            // this release
	Build    time.Time         // of this release: no earlier time is believed
	BootID   string            // of this boot: the kernel's random/boot_id
	Idle     time.Duration     // exit after so long without a connection; 0: never

	Updates *Updates // nil where nothing can be installed

	EKName func(ctx context.Context) ([]byte, error) // Name of the TPM's endorsement key
	Reboot func(ctx context.Context) error           // starts an orderly reboot: Systemctl
	Now    func() time.Time                          // the system's clock
	Synced func() bool                               // whether a time source set it since boot
	FS     *fsx.FS
	Log    *slog.Logger
}

// Run answers requests until ctx ends, or until nobody asked for Idle.
func Run(ctx context.Context, c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	defer c.Listener.Close()
	s, err := open(ctx, c)
	if err != nil {
		return err
	}
	return s.serve(ctx)
}

func (c Config) check() error {
	if c.Listener == nil || c.PeerUID < 0 || c.Trust == "" || c.State == "" || c.Software == "" || c.Build.IsZero() || c.BootID == "" ||
		c.EKName == nil || c.Reboot == nil || c.Now == nil || c.Synced == nil || c.FS == nil || c.Log == nil {
		return errors.New("helper: incomplete configuration")
	}
	if u := c.Updates; u != nil && (u.Loader == nil || u.Slots == "" || u.Product == "") {
		return errors.New("helper: incomplete configuration of updates")
	}
	return nil
}

type server struct {
	Config
	ledger *ledger.Ledger
	clock  *clock

	slots chan struct{}  // one per connection
	conns sync.WaitGroup // connections being served
	verbs sync.Mutex     // one verb at a time: they are few and share all state

	installing chan struct{} // one install session at a time; verbs go on meanwhile
}

func open(ctx context.Context, c Config) (*server, error) {
	if err := c.FS.MkdirAll(c.State, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	if err := trust.CheckOwner(c.State); err != nil {
		return nil, fmt.Errorf("check state folder: %w", err)
	}
	clock, err := openClock(c)
	if err != nil {
		return nil, err
	}
	// A damaged ledger stops what it guards, not the rest.
	once, err := ledger.Open(c.FS, c.statePath("commands.ledger"))
	if err != nil {
		c.Log.Error("no command will be run", "error", err)
		once = nil
	}
	s := &server{Config: c, ledger: once, clock: clock, slots: make(chan struct{}, maxConnections), installing: make(chan struct{}, 1)}
	if c.Updates != nil {
		if err := s.settleUpdate(ctx); err != nil {
			c.Log.Error("the state of the slots is unclear", "error", err)
		}
	}
	return s, s.settle()
}

// settle closes what an earlier run began: a helper that was killed while it ran a
// command can't tell how that ended.
func (s *server) settle() error {
	if s.ledger == nil {
		return nil
	}
	for _, e := range s.ledger.Unreported() {
		if err := s.ledger.Finish(e.ID, "unknown"); err != nil {
			return err
		}
		if err := s.ledger.Reported(e.ID); err != nil {
			return err
		}
	}
	return s.ledger.Compact(s.clock.floor)
}
