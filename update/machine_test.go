package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update/boot"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/chunk/pack"
	"github.com/gatewarden/gatewarden/update/chunk/store"
	"github.com/gatewarden/gatewarden/update/release"
	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/fetch"
	"github.com/gatewarden/gatewarden/update/tuf/tuftest"
)

// hung is how long a test waits before it says that something hangs.
const hung = 2 * time.Minute

// machine is a gateway with two slots, the real helper and boot loader, and a
// disk; beside it stands the owner's repository behind a real web server.
type machine struct {
	t      testing.TB
	dir    string
	repo   *tuftest.Repo
	url    string            // of the web server
	down   atomic.Bool       // the server answers 503
	images map[string]string // digest of an image -> version, with the slot behind it if it is for one alone
	size   int               // bytes of an image

	hook      func(op, path string) error // of every durable op of engine and helper
	condition func(version string) Condition
	refuse    func() error // what Report returns
	log       slog.Handler // the engine's
	budget    int64
	secrets   Resealer

	boots   int
	running string // version of the image that booted
	engine  *Engine

	mu      sync.Mutex
	reports []wire.Update  // as the outbox holds them: power cuts don't matter
	asked   map[string]int // chunk files asked for
	targets []string       // and targets
	spoil   func(path string, data []byte) []byte
}

func good(string) Condition {
	return Condition{Checks: map[string]string{"disk": "ok"}, Link: true, Verdict: "trusted"}
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{
		t: t, dir: dir, repo: tuftest.New(t), images: map[string]string{}, size: 1 << 20, condition: good, budget: 1 << 30,
		refuse: func() error { return nil }, asked: map[string]int{}, log: slog.DiscardHandler,
	}
	for _, d := range []string{"slots/slot-a", "slots/slot-b", "trust", "store"} {
		m.must(os.MkdirAll(m.path(d), 0o755))
	}
	m.write("trust/root.json", m.repo.Served["root"][0])
	m.write("trust/product.json", []byte(`{"v":1,"product":"gw","channel":"stable","hardware":"box-1","version":"1.0.0","epoch":1}`))
	m.write("slots/slot-a/rootfs.img", m.image("1.0.0", 0))
	m.must(boot.FileInit(m.path("slots"), boot.SlotA))
	mux := http.NewServeMux()
	mux.Handle("/metadata/", m.repo)
	mux.HandleFunc("/targets/", func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.targets = append(m.targets, r.URL.Path)
		m.mu.Unlock()
		m.repo.ServeHTTP(w, r)
	})
	mux.HandleFunc("/chunks/", m.serveChunk)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, filepath.FromSlash(name)) }

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) write(name string, data []byte) { m.must(os.WriteFile(m.path(name), data, 0o644)) }

func (m *machine) serveChunk(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/chunks/")
	data, err := os.ReadFile(m.path("store/" + name))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	m.mu.Lock()
	m.asked[name]++
	if m.spoil != nil {
		data = m.spoil(name, data)
	}
	m.mu.Unlock()
	_, _ = w.Write(data)
}

// image is that of a version, random but for part, its share that differs from
// all others, in percent.
func (m *machine) image(version string, part int) []byte {
	data := make([]byte, m.size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	var seed [32]byte
	copy(seed[:], version)
	_, _ = rand.NewChaCha8(seed).Read(data[m.size/2 : m.size/2+m.size*part/100])
	m.images[fmt.Sprintf("%x", sha256.Sum256(data))] = version
	return data
}

// author is what the owner writes into a release.
func author(version string) release.Release {
	return release.Release{
		Format: 1, Product: "gw", Channel: "stable", Version: version, Epoch: 1, Hardware: []string{"box-1"},
		Confirm: release.Confirm{Checks: []release.Criterion{{Check: "disk", Within: 1}}, Link: true, Verdict: true, Timeout: 1},
	}
}

// publish packs a root file system and signs its release.
func (m *machine) publish(r release.Release, image []byte) {
	m.t.Helper()
	m.sign(r, m.pack(r.Version, release.Image{Slot: "rootfs"}, image))
}

// pack puts an image's chunks and index into the repository.
func (m *machine) pack(version string, about release.Image, image []byte) release.Image {
	m.t.Helper()
	packed, err := pack.Pack(context.Background(), pack.Config{
		Image: bytes.NewReader(image), Size: int64(len(image)), Store: m.path("store"), Sizes: chunk.DefaultSizes(),
		Algorithm: chunk.SHA512_256, FS: &fsx.FS{}, Workers: 1,
	})
	m.must(err)
	name := "releases/gw/stable/" + version + "/" + about.Slot
	if about.For != "" {
		name += "-" + about.For
	}
	about.Name, about.Index, about.Size, about.SHA256 = name+".img", name+".caibx", int64(len(image)), sha256.Sum256(image)
	m.repo.AddTarget("targets", about.Index, packed.Index.Encode())
	return about
}

func (m *machine) sign(r release.Release, images ...release.Image) {
	m.t.Helper()
	r.Images = images
	path := "releases/gw/stable/" + r.Version + ".json"
	custom, err := json.Marshal(r)
	m.must(err)
	m.repo.AddTarget("targets", path, custom)
	raw := json.RawMessage(custom)
	m.repo.Targets["targets"].Signed.Targets[path].Custom = &raw
	m.repo.Publish("targets", "snapshot", "timestamp")
}

// powerOn plays the firmware. What boots must be a whole image, and if there is one
// that starts it, that of the same release for this slot.
func (m *machine) powerOn() {
	m.t.Helper()
	slot, err := boot.FileBoot(m.path("slots"))
	m.must(err)
	data, err := os.ReadFile(m.path("slots/slot-" + slot + "/rootfs.img"))
	m.must(err)
	version, whole := m.images[fmt.Sprintf("%x", sha256.Sum256(data))]
	if !whole {
		m.t.Fatalf("slot %s boots and holds no whole image", slot)
	}
	if data, err := os.ReadFile(m.path("slots/slot-" + slot + "/boot.img")); err == nil {
		if is := m.images[fmt.Sprintf("%x", sha256.Sum256(data))]; is != version+" "+slot {
			m.t.Fatalf("slot %s boots release %s with the boot image of %q", slot, version, is)
		}
	}
	m.running = version
	m.boots++
}

var errPower = errors.New("the power went")

// life runs helper and engine from power on until the machine goes down, the power
// goes, or done says that it is enough. It returns whether that was so.
func (m *machine) life(done func() bool) bool {
	m.t.Helper()
	m.powerOn()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	end := make(chan string, 64)
	disk := &fsx.FS{Hook: func(op, path string) error {
		if m.hook == nil {
			return nil
		}
		err := m.hook(op, path)
		if errors.Is(err, errPower) {
			cancel()
		}
		return err
	}}
	var tasks sync.WaitGroup
	tasks.Go(func() { m.runHelper(ctx, disk, end) })
	m.must(m.waitFor(func() bool {
		_, err := os.Stat(m.path("helper.sock"))
		return err == nil || len(end) > 0 || ctx.Err() != nil
	}))
	m.makeEngine(disk)
	if m.engine != nil {
		tasks.Go(func() { _ = m.engine.Run(ctx) })
	} else {
		end <- "no engine"
	}
	finished, deadline := false, time.Now().Add(hung)
	for ctx.Err() == nil && len(end) == 0 && !finished {
		if time.Now().After(deadline) {
			m.t.Fatalf("nothing happens any more: %+v", m.engine.Status())
		}
		time.Sleep(time.Millisecond)
		finished = done()
	}
	cancel()
	tasks.Wait()
	_ = os.Remove(m.path("helper.sock"))
	return finished
}

func (m *machine) waitFor(ok func() bool) error {
	for end := time.Now().Add(hung); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return nil
		}
	}
	return errors.New("waited in vain")
}

func (m *machine) runHelper(ctx context.Context, disk *fsx.FS, end chan string) {
	listener, err := helper.Listen(m.path("helper.sock"), os.Geteuid())
	if err != nil {
		end <- err.Error()
		return
	}
	err = helper.Run(ctx, helper.Config{
		Listener: listener, PeerUID: os.Geteuid(), Trust: m.path("trust"), State: m.path("helper"), Software: "1.2.3",
		Build: tuftest.Epoch().AddDate(0, 0, -1), BootID: fmt.Sprint("boot-", m.boots),
		Updates: &helper.Updates{
			Loader: boot.All(boot.Deps{FS: disk, Folder: m.path("slots")})[0].Loader, Slots: m.path("slots"), Product: m.path("trust/product.json"),
		},
		EKName: func(context.Context) ([]byte, error) { return []byte("name"), nil },
		Reboot: func(context.Context) error { end <- "reboot"; return nil },
		Now:    tuftest.Epoch, Synced: func() bool { return true }, FS: disk, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		end <- err.Error()
	}
}

type installer struct{ *client.Client }

func (i installer) Install(ctx context.Context, target string, files tuf.Fetcher) (Session, error) {
	return i.Client.Install(ctx, target, files)
}

// makeEngine leaves it nil when the disk fails while it starts.
func (m *machine) makeEngine(disk *fsx.FS) {
	m.t.Helper()
	var err error
	if m.engine, err = m.newEngine(disk); err != nil && !errors.Is(err, errPower) && !errors.Is(err, errOnce) {
		m.t.Fatal(err)
	}
}

func (m *machine) newEngine(disk *fsx.FS) (*Engine, error) {
	meter := &Meter{Next: http.DefaultTransport}
	web := &http.Client{Transport: meter}
	limits := fetch.Config{Client: web, MinRate: 1, Window: time.Minute}
	limits.Base = m.url + "/metadata"
	metadata, err := fetch.New(limits)
	if err != nil {
		return nil, err
	}
	limits.Base = m.url + "/targets"
	targets, err := fetch.New(limits)
	if err != nil {
		return nil, err
	}
	root, err := os.ReadFile(m.path("trust/root.json"))
	if err != nil {
		return nil, err
	}
	repo, err := NewRepo(tuf.Config{FS: disk, Dir: m.path("state/tuf"), Root: root, Metadata: metadata, Targets: targets, Now: tuftest.Epoch})
	if err != nil {
		return nil, err
	}
	start := time.Now()
	version := m.running
	return New(Config{
		FS: disk, Dir: m.path("state/update"), Repo: repo, Installer: installer{client.New(m.path("helper.sock"))},
		Chunks: func(b *store.Budget) ([]store.Place, error) {
			p, err := store.HTTP(store.HTTPConfig{Base: m.url + "/chunks", Client: web, Budget: b})
			return []store.Place{p}, err
		},
		Fetched: meter.Read, Secrets: m.secrets, Condition: func() Condition { return m.condition(version) }, Report: m.report,
		Budget: m.budget, Every: time.Hour, Auto: true, Settle: 20 * time.Millisecond,
		Patience: Patience{Retry: 10 * time.Millisecond, MaxRest: 50 * time.Millisecond, Tries: 20, Reboot: hung, Look: time.Millisecond, Chunk: hung},
		Uptime:   func() time.Duration { return time.Since(start) }, Now: tuftest.Epoch, Rand: func() float64 { return 0 },
		Log: slog.New(m.log),
	})
}

// report is the outbox.
func (m *machine) report(u wire.Update) error {
	if err := m.refuse(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports = append(m.reports, u)
	return nil
}

// outcomes are those that were reported, each once.
func (m *machine) outcomes() []wire.Update {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []wire.Update
	seen := map[string]bool{}
	for _, u := range m.reports {
		if u.Outcome != "" && !seen[u.ID] {
			seen[u.ID] = true
			all = append(all, u)
		}
	}
	return all
}

// settled says that n outcomes were told and the engine waits for the next look.
func (m *machine) settled(n int) func() bool {
	return func() bool {
		if m.engine == nil || len(m.outcomes()) < n {
			return false
		}
		s := m.engine.Status()
		return s.State == Idle && s.Next > time.Minute
	}
}

// live goes through as many lives as it takes.
func (m *machine) live(done func() bool) {
	m.t.Helper()
	for range 20 {
		if m.life(done) {
			return
		}
	}
	m.t.Fatalf("after 20 lives: %+v; outcomes %+v", m.engine.Status(), m.outcomes())
}

// wantOutcome checks the only outcome, and what runs.
func (m *machine) wantOutcome(outcome, rule, running string) wire.Update {
	m.t.Helper()
	all := m.outcomes()
	if len(all) != 1 || all[0].Outcome != outcome || all[0].Rule != rule {
		m.t.Fatalf("outcomes are %+v, want one: %s by rule %q", all, outcome, rule)
	}
	m.powerOn()
	if m.running != running {
		m.t.Fatalf("%s runs, want %s", m.running, running)
	}
	return all[0]
}

var errOnce = errors.New("input/output error")
