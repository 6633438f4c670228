package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/e2e/lab"
	"github.com/gatewarden/gatewarden/e2e/lab/image"
	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/internal/conf"
	"github.com/gatewarden/gatewarden/internal/freeport"
)

const (
	fleetID = "lab"
	person  = "olga" // the operator
	trusted = "trusted"
)

// Limits, at least five times what an idle host needs.
const (
	agentLimit   = 3 * time.Minute  // the agent says something that it knows
	verdictLimit = 4 * time.Minute  // a round trip to the fleet with a quote
	updateLimit  = 15 * time.Minute // a release fetched and written
	trialLimit   = 10 * time.Minute // a boot and its proof
)

// world is a fleet server on the host, its owner, and one gateway.
type world struct {
	*lab.Lab
	dir      string
	deb      string // the product's package
	settings fleet.Settings
	server   *fleet.Server
	stopped  func() // ends the server
	api      *operator.Client
	owner    *owner
	gateway
	machine lab.Machine   // what gateways are made of
	ahead   time.Duration // of the fleet's and the owner's clock before this machine's
}

// gateway is a machine of the fleet.
type gateway struct {
	vm *lab.VM
	id string // of the device, once enrolled
}

// now is the time for the fleet and its owner.
func (w *world) now() time.Time { return time.Now().Add(w.ahead) }

// quick says whether only the stories are told that every change must pass.
func quick() bool { return os.Getenv("E2E") == "quick" }

// inFull skips a story that not every change must pass.
func inFull(t *testing.T) {
	t.Helper()
	if quick() {
		t.Skip("E2E=quick leaves this story out: make e2e tells all")
	}
}

// setup is what a story may choose. The zero value is the usual gateway.
type setup struct {
	machine  lab.Machine
	first    func(*image.Release)                                  // changes the release that the gateway is born with
	extra    string                                                // of agent.toml
	disk     func(w *world, first image.Built, disk string) string // returns another disk than the usual
	aged     time.Duration                                         // of the fleet's authority
	grub     bool                                                  // GRUB starts the kernel
	chain    bool                                                  // GRUB starts the boot image
	files    bool                                                  // the fleet knows the files that the gateway may run
	coldBoot bool                                                  // boot instead of restoring the snapshot
	bare     bool                                                  // nobody has installed or configured the product yet
}

// newWorld installs a fleet and a gateway, which runs and knows its fleet, but not the
// fleet it.
func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{Lab: lab.Open(t), dir: t.TempDir()}
	var err error
	w.deb, err = builtPackage()
	w.check(err)
	born := image.Release{Deb: w.deb, Version: "1.0.0"}
	if s.first != nil {
		s.first(&born)
	}
	if s.bare {
		born.Deb = ""
	}
	first := w.build(born)
	what := image.Disk{A: first, Spare: first.Rootfs}
	switch {
	case s.grub:
		what.Loader, err = w.Cache.Grub(born)
	case s.chain:
		what.Loader, err = w.Cache.GrubChain(first)
		first.Loader = what.Loader[image.Loader] // the release's, for the fleet
	}
	w.check(err)
	disk, err := w.Cache.Disk(what)
	w.check(err)
	w.owner = newOwner(w, first)
	if s.disk != nil {
		disk = s.disk(w, first, disk)
	}
	w.installFleet(s.aged)
	if s.files {
		w.mayRun(first)
	}
	s.machine.Disk, s.machine.API, s.machine.MQTT = disk, port(w, w.settings.Listen.API), port(w, w.settings.Listen.MQTT)
	w.machine = s.machine
	if s.coldBoot {
		w.vm = w.Boot(s.machine)
	} else {
		w.vm = w.Golden(s.machine)
	}
	w.check(os.WriteFile(filepath.Join(w.settings.EKRoots, "lab.pem"), w.vm.TPMMaker(), 0o600))
	w.serve()
	w.Cleanup(func() { w.stopped() })
	if !s.bare {
		w.configure(s.extra)
	}
	return w
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) build(r image.Release) image.Built {
	w.Helper()
	b, err := w.Cache.Build(r)
	w.check(err)
	return b
}

// builtPackage builds the product's package from this source, once for all stories.
// $GATEWARDEN_E2E_DEB names one that is built already.
var builtPackage = sync.OnceValues(func() (string, error) {
	if deb := os.Getenv("GATEWARDEN_E2E_DEB"); deb != "" {
		return deb, nil
	}
	cache, err := image.Open()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache.Dir, "package")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "run", "./packaging/build", "-arch", "amd64", "-format", "deb", "-out", dir)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the package: %w: %s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "gatewarden_*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("the build left %d packages: %w", len(found), errors.Join(err, fs.ErrNotExist))
	}
	return found[0], nil
})

func port(w *world, address string) int {
	a, err := net.ResolveTCPAddr("tcp", address)
	w.check(err)
	return a.Port
}

// installFleet initialises a fleet server, whose authority was made that long ago,
// with the owner's repository.
func (w *world) installFleet(aged time.Duration) {
	w.Helper()
	s := fleet.DefaultSettings()
	s.Fleet, s.State = fleetID, filepath.Join(w.dir, "fleet")
	s.Updates, s.EKRoots = filepath.Join(s.State, "updates"), filepath.Join(s.State, "ek-roots")
	s.Listen = fleet.Listen{API: freeAddress(w), MQTT: freeAddress(w), Dashboard: "127.0.0.1:0", Operator: filepath.Join(w.dir, "op.sock")}
	s.Public = fleet.Public{API: []string{"https://" + lab.FleetAPI}, MQTT: []string{"mqtts://" + lab.FleetMQTT}}
	s.Enroll.Retry = conf.Duration(time.Second)
	w.settings = s
	w.check(fleet.Init(s, w.now().Add(-aged)))
	w.check(os.MkdirAll(s.EKRoots, 0o700))
	root, err := w.owner.repo.Root()
	w.check(err)
	w.check(os.WriteFile(w.trust("root.json"), root, 0o644))
	w.owner.writeOperators(w.trust("operators.json"))
	w.owner.publish(s.Updates)
}

func (w *world) trust(name string) string { return filepath.Join(w.settings.State, "trust", name) }

func freeAddress(w *world) string {
	addresses, err := freeport.Addresses(1)
	w.check(err)
	return addresses[0]
}

func (w *world) serve() {
	w.Helper()
	logFile, err := os.OpenFile(filepath.Join(w.dir, "fleet.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	w.check(err)
	w.server, err = fleet.NewByClock(w.settings, "lab", w.now, slog.New(slog.NewTextHandler(logFile, nil)))
	w.check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func(s *fleet.Server) { ended <- s.Run(ctx) }(w.server)
	w.stopped = func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			w.Errorf("the fleet server ended: %v", err)
		}
		logFile.Close()
		if w.Failed() {
			log, _ := os.ReadFile(filepath.Join(w.dir, "fleet.log")) // best effort: it only explains
			w.Logf("the fleet server's log ends:\n%s", log[max(0, len(log)-4000):])
		}
		w.stopped = func() {}
	}
	w.api = operator.NewClient(w.settings.Listen.Operator)
}

// pass lets time pass for the fleet and its owner, who publishes when it has passed.
// The fleet server is not there meanwhile.
func (w *world) pass(d time.Duration) {
	w.Helper()
	w.stopped()
	w.ahead += d
	w.owner.publish(w.settings.Updates)
}

// configure puts the trust documents and the agent's settings on the machine, by a
// way that the integrator trusts; the agent starts by that.
func (w *world) configure(extra string) {
	w.Helper()
	settings := fmt.Sprintf("[identity]\nmodel = %q\nhostname = \"gateway\"\n[health]\ninterval = \"10s\"\n[attest]\ninterval = \"1m\"\n[update]\ninterval = \"15s\"\n%s", image.Hardware, extra)
	w.vm.Put("/etc/gatewarden/agent.toml", []byte(settings))
	for _, name := range []string{"root.json", "operators.json", "fleet.json"} { // the last one starts the agent
		data, err := os.ReadFile(w.trust(name))
		w.check(err)
		w.vm.Put("/etc/gatewarden/trust/"+name, data)
	}
}

// status asks the agent as `gatewarden status` does.
func (w *world) status() (local.Status, error) {
	var s local.Status
	out, err := w.vm.Try("gatewarden status --json")
	if err != nil {
		return s, fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// until waits until the agent's status satisfies ok.
func (w *world) until(what string, limit time.Duration, ok func(local.Status) bool) local.Status {
	w.Helper()
	var last local.Status
	w.Until(what, limit, func() error {
		s, err := w.status()
		if err != nil {
			return err
		}
		last = s
		if !ok(s) {
			raw, _ := json.Marshal(s) // it came as JSON
			return fmt.Errorf("the agent says %s", raw)
		}
		return nil
	})
	return last
}
