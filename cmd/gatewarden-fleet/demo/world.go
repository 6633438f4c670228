package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/conf"
	"github.com/gatewarden/gatewarden/internal/freeport"
)

const (
	fleetID   = "demo"
	person    = "olga"  // the operator
	bystander = "gunda" // known to the fleet, without any role
)

// world is everything that the demo runs.
type world struct {
	dir, run string
	settings fleet.Settings
	server   *fleet.Server
	api      *operator.Client
	keys     *keyring
	owner    *owner
	gateways [2]*gateway
	random   *rand.Rand
	requests requests // of update files
	secret   []byte   // sealed on both gateways

	stop  context.CancelFunc // ends the fleet server
	ended chan error         // how it ended
}

// newWorld installs a fleet and two gateways, and starts the fleet server.
func newWorld(ctx context.Context, c Config, dir string) (*world, error) {
	w := &world{dir: dir, random: source(c.Seed), ended: make(chan error, 1), stop: func() {}}
	run, err := os.MkdirTemp("", "gw")
	if err != nil {
		return nil, fmt.Errorf("make folder for sockets: %w", err)
	}
	w.run = run
	if err := w.install(ctx, c); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) install(ctx context.Context, c Config) error {
	if err := w.configure(c); err != nil {
		return err
	}
	if err := fleet.Init(w.settings, time.Now()); err != nil {
		return err
	}
	trust := w.trust()
	var err error
	if w.keys, err = newKeyring(ctx, filepath.Join(w.dir, "operators")); err != nil {
		return err
	}
	if err := w.keys.writeOperators(filepath.Join(trust, "operators.json")); err != nil {
		return err
	}
	if err := w.releaseFirst(ctx, trust); err != nil {
		return err
	}
	if err := os.MkdirAll(w.settings.EKRoots, 0o700); err != nil {
		return err
	}
	for i := range w.gateways {
		name := fmt.Sprintf("gateway-%d", i+1)
		if w.gateways[i], err = newGateway(ctx, name, filepath.Join(w.dir, name), w.run, c.Gatewarden, trust); err != nil {
			return err
		}
		makers, err := w.gateways[i].chip.CACertificates()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(w.settings.EKRoots, name+".pem"), makers, 0o600); err != nil {
			return err
		}
	}
	return w.serve()
}

// releaseFirst makes the owner's repository with release 1, which the gateways are
// born with, and pins its root at install.
func (w *world) releaseFirst(ctx context.Context, trust string) (err error) {
	if w.owner, err = newOwner(filepath.Join(w.dir, "owner")); err != nil {
		return err
	}
	root, err := w.owner.repo.Root()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(trust, "root.json"), root, 0o644); err != nil {
		return err
	}
	return w.publish(ctx, newSoftware(version1, 1, 1))
}

// configure writes fleet.toml's content as settings, with free ports of loopback.
func (w *world) configure(c Config) error {
	ports, err := freeport.Addresses(2)
	if err != nil {
		return err
	}
	s := fleet.DefaultSettings()
	s.Fleet, s.State = fleetID, filepath.Join(w.dir, "fleet")
	s.Updates, s.EKRoots = filepath.Join(s.State, "updates"), filepath.Join(s.State, "ek-roots")
	s.Listen = fleet.Listen{API: ports[0], MQTT: ports[1], Dashboard: c.Dashboard, Operator: filepath.Join(w.run, "operator.sock")}
	s.Public = fleet.Public{API: []string{"https://" + ports[0]}, MQTT: []string{"mqtts://" + ports[1]}}
	s.Enroll.Retry = retry
	w.settings = s
	return nil
}

// retry keeps a waiting gateway asking often enough for a demo.
const retry = conf.Duration(300 * time.Millisecond)

// publish releases s to the fleet, with the attestation policy that goes with it.
func (w *world) publish(ctx context.Context, s software) error {
	return w.owner.release(ctx, s, w.settings.Updates, confirm())
}

func (w *world) serve() error {
	logFile, err := os.OpenFile(filepath.Join(w.dir, "fleet.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	log := slog.New(&requestCounter{Handler: slog.NewTextHandler(logFile, nil), requests: &w.requests})
	if w.server, err = fleet.New(w.settings, "demo", log); err != nil {
		return errors.Join(err, logFile.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.ended <- w.server.Run(ctx)
	}()
	w.stop = func() {
		cancel()
		<-done
		logFile.Close()
	}
	w.api = operator.NewClient(w.settings.Listen.Operator)
	// A restart finds it where people have it open.
	w.settings.Listen.Dashboard = strings.TrimSuffix(strings.TrimPrefix(w.server.DashboardURL(), "http://"), "/")
	return nil
}

// stopServer ends the fleet server; serve starts it again.
func (w *world) stopServer() error {
	w.stop()
	w.stop = func() {}
	return <-w.ended
}

func (w *world) trust() string     { return filepath.Join(w.settings.State, "trust") }
func (w *world) dashboard() string { return w.server.DashboardURL() }

// boot starts a gateway; words are added to its kernel command line.
func (w *world) boot(ctx context.Context, g *gateway, words string) error {
	return g.boot(ctx, words, w.trust())
}

// failed returns an error if a part ended by itself.
func (w *world) failed() error {
	select {
	case err := <-w.ended:
		w.ended <- err
		return fmt.Errorf("the fleet server ended: %w", err)
	default:
	}
	for _, g := range w.gateways {
		if err := g.failed(); err != nil {
			return err
		}
	}
	return nil
}

// close ends everything, gateways first, and removes the sockets.
func (w *world) close() error {
	var errs []error
	for _, g := range w.gateways {
		if g != nil {
			errs = append(errs, g.shutDown())
		}
	}
	w.stop()
	errs = append(errs, os.RemoveAll(w.run))
	return errors.Join(errs...)
}
