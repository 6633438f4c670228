package messages

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/link"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/internal/mqttconn/mqtttest"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// TestDeviceProcess is the device of the test below, as a process that can be
// killed: it queues without pause and prints each index that Put promised.
func TestDeviceProcess(t *testing.T) {
	dir := os.Getenv("GATEWARDEN_TEST_DEVICE")
	if dir == "" {
		t.Skip("is started by TestPowerCutsOfTheDeviceLoseAndDoubleNothing")
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "device.pem"), filepath.Join(dir, "device.pem"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	key, _ := hex.DecodeString(os.Getenv("GATEWARDEN_TEST_KEY"))
	o, err := link.OpenOutbox(filepath.Join(dir, "outbox.db"), link.DefaultLimits(), logger(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.New(link.Config{
		Brokers: func() []string { return []string{os.Getenv("GATEWARDEN_TEST_BROKER")} },
		TLS: func() (*tls.Config, string, error) {
			return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}, device, nil
		},
		Outbox: o, Keys: func() []ed25519.PublicKey { return []ed25519.PublicKey{key} },
		Handle: func(context.Context, wire.Kind, []byte) {}, Hello: func() wire.Hello { return wire.Hello{Version: 1, Connected: true} },
		MaxBackoff: 50 * time.Millisecond, Log: logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	go l.Run(t.Context())
	for i := range 500 { // the parent ends it long before
		if err := o.Put(wire.KindLinkTest, time.Now(), wire.LinkTest{Run: os.Getenv("GATEWARDEN_TEST_RUN"), Index: i}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("put %d\n", i)
	}
	select {}
}

func TestPowerCutsOfTheDeviceLoseAndDoubleNothing(t *testing.T) {
	eachBroker(t, func(t *testing.T, ca *mqtttest.CA, p peer) {
		t.Parallel()
		w := newWorld(t, ca, p)
		dir := t.TempDir()
		ca.Write(dir)
		writePair(t, filepath.Join(dir, "device.pem"), w.cert)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		promised := make([]int, 6) // how many of each run
		for run := range promised {
			promised[run] = w.cutAfter(dir, run, 5+r.IntN(60), time.Duration(r.IntN(3000))*time.Microsecond)
		}
		o, err := link.OpenOutbox(filepath.Join(dir, "outbox.db"), link.DefaultLimits(), logger(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.Close() })
		w.link(o)
		w.drained(o)
		if _, err := os.Stat(filepath.Join(dir, "outbox.db.damaged")); err == nil {
			t.Error("the outbox was damaged")
		}
		w.everyRun(promised)
	})
}

// cutAfter starts the device, kills it a moment after it promised n messages and
// returns how many it promised.
func (w *world) cutAfter(dir string, run, n int, moment time.Duration) (promised int) {
	w.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestDeviceProcess$")
	child.Env = append(os.Environ(), "GATEWARDEN_TEST_DEVICE="+dir, "GATEWARDEN_TEST_BROKER="+w.peer.URL(),
		"GATEWARDEN_TEST_RUN="+strconv.Itoa(run), "GATEWARDEN_TEST_KEY="+hex.EncodeToString(w.key.Public().(ed25519.PublicKey)))
	out, err := child.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := child.Start(); err != nil {
		w.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var i int
		if _, err := fmt.Sscanf(lines.Text(), "put %d", &i); err != nil {
			w.Errorf("the device said %q", lines.Text())
			continue
		}
		promised = i + 1
		if promised == n {
			time.AfterFunc(moment, func() { _ = child.Process.Kill() })
		}
	}
	_ = child.Wait()
	return promised
}

// everyRun checks that what was promised arrived, once and in order.
func (w *world) everyRun(promised []int) {
	w.Helper()
	ms, err := w.store.Messages(w.Context(), device, string(wire.KindLinkTest), registry.MaxPage)
	if err != nil {
		w.Fatal(err)
	}
	next := make([]int, len(promised))
	for i := len(ms) - 1; i >= 0; i-- {
		var l wire.LinkTest
		if err := json.Unmarshal(ms[i].Body, &l); err != nil {
			w.Fatal(err)
		}
		run, _ := strconv.Atoi(l.Run)
		if l.Index != next[run] {
			w.Fatalf("run %d: message %d arrived in place of %d", run, l.Index, next[run])
		}
		next[run]++
	}
	for run, n := range promised {
		if next[run] < n || n == 0 {
			w.Errorf("run %d: %d messages were promised, %d arrived", run, n, next[run])
		}
	}
}

func writePair(t *testing.T, path string, cert tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	data := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
