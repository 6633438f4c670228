package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/cli"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
	"github.com/gatewarden/gatewarden/update/boot"
)

// The real command line of a machine without systemd: slots, product, counter,
// and a reboot that is a file.
func TestHelperCommandServesUpdates(t *testing.T) {
	_, chip := tpmtest.Start(t)
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, sub := range []string{"trust", "slots", "slots/slot-a", "slots/slot-b"} {
		if err := os.Mkdir(at(sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	product := `{"v":1,"product":"gw","channel":"stable","hardware":"box-1","version":"1.0.0","epoch":1}`
	if err := os.WriteFile(at("trust/product.json"), []byte(product), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := boot.FileInit(at("slots"), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := boot.FileBoot(at("slots")); err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		ended <- run(ctx, []string{"helper", "--listen", at("s"), "--peer", me.Username, "--trust", at("trust"), "--state", at("state"),
			"--tpm", "unix:" + chip.Socket, "--slots", at("slots"), "--product-file", at("trust/product.json"), "--reboot-file", at("reboot")},
			&stderr, &stderr)
	}()
	c := client.New(at("s"))
	slots, err := c.Slots(ctx)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		slots, err = c.Slots(ctx)
	}
	if err != nil || slots.Running != "a" || slots.Version != "1.0.0" || slots.Epoch != 1 || slots.Counter != "ok" || len(slots.CounterRecord) == 0 {
		t.Errorf("slots are %+v, %v", slots, err)
	}
	var refusal *policy.Refusal
	if err := c.Rollback(ctx); !errors.As(err, &refusal) || refusal.Rule != "trial" {
		t.Errorf("error is %v, want a refusal by trial", err)
	}
	if _, err := os.Stat(at("reboot")); err == nil {
		t.Error("it rebooted")
	}
	cancel()
	if code := <-ended; code != cli.OK {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}
