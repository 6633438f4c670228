package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/conf"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/boot"
	contents "github.com/gatewarden/gatewarden/update/release"
)

// What the gateway with slots is.
const (
	product    = "rig"
	channel    = "stable"
	newVersion = "2.0.0"
	installFor = time.Minute // how long one install may take
)

// installImage has a gateway of its own install image as a release, from the
// repository that its fleet serves, and returns what that took of its agent and of
// its helper, until the helper asks for the reboot into it.
func installImage(ctx context.Context, binary, image string) (installed, error) {
	l, err := newLab(ctx)
	if err != nil {
		return installed{}, err
	}
	defer l.close()
	if err := l.enrol(ctx); err != nil {
		return installed{}, err
	}
	owner, err := l.newOwner(ctx)
	if err != nil {
		return installed{}, fmt.Errorf("make repository: %w", err)
	}
	helper, err := l.slots(ctx, binary)
	if err != nil {
		return installed{}, fmt.Errorf("make slots: %w", err)
	}
	defer stop(helper)
	agent, err := l.process(ctx, binary)
	if err != nil {
		return installed{}, err
	}
	defer stop(agent)
	_, err = owner.Build(ctx, release.BuildOptions{
		Product: product, Channel: channel, Version: newVersion, Epoch: 1, Hardware: []string{"rig"}, Rootfs: image,
		Confirm: contents.Confirm{Timeout: 60},
	})
	if err != nil {
		return installed{}, err
	}
	return l.measureInstall(ctx, owner, agent.Process.Pid, helper.Process.Pid, image)
}

// measureInstall publishes what was built: until then both processes are idle.
func (l *lab) measureInstall(ctx context.Context, owner *release.Repo, agent, helper int, image string) (installed, error) {
	var began, ended installed
	read := func(i *installed) (err error) {
		if i.agent, err = spent(agent); err == nil {
			i.helper, err = spent(helper)
		}
		return err
	}
	if err := read(&began); err != nil {
		return ended, err
	}
	if err := l.publish(ctx, owner); err != nil {
		return ended, err
	}
	wait, cancel := context.WithTimeout(ctx, installFor)
	defer cancel()
	err := rig.Await(wait, "install", func() error {
		if _, err := os.Stat(filepath.Join(l.dir, "reboot")); err != nil {
			status, asked := local.UpdateStatus(ctx, l.gateway.Settings.Socket)
			return fmt.Errorf("the update is %s %s: %w", status.State, status.Problem, errors.Join(err, asked))
		}
		return nil
	})
	if err := errors.Join(err, read(&ended), same(image, filepath.Join(l.dir, "slots", "slot-b", "rootfs.img"))); err != nil {
		return ended, err
	}
	ended.agent.cpu -= began.agent.cpu
	ended.helper.cpu -= began.helper.cpu
	return ended, nil
}

// newOwner makes a repository without releases, which the gateway follows from now
// on.
func (l *lab) newOwner(ctx context.Context) (*release.Repo, error) {
	owner, err := release.Init(release.Config{FS: &fsx.FS{}, Dir: filepath.Join(l.dir, "owner"), Now: time.Now}, release.DefaultInit(product))
	if err != nil {
		return nil, err
	}
	root, err := owner.Root()
	if err != nil {
		return nil, err
	}
	l.gateway.Settings.Update.Interval = conf.Duration(time.Second)
	return owner, errors.Join(os.WriteFile(filepath.Join(l.fleet.Trust(), "root.json"), root, 0o644), l.publish(ctx, owner))
}

func (l *lab) publish(ctx context.Context, owner *release.Repo) error {
	if _, err := owner.Sign(); err != nil {
		return err
	}
	_, err := owner.Publish(ctx, release.PublishOptions{To: l.fleet.Settings.Updates})
	return err
}

// slots gives the gateway two slots of which the spare one is empty, and a helper
// for them in a process of its own.
func (l *lab) slots(ctx context.Context, binary string) (*exec.Cmd, error) {
	dir, about := filepath.Join(l.dir, "slots"), filepath.Join(l.dir, "product.json")
	for _, name := range []string{"a", "b"} {
		if err := os.MkdirAll(filepath.Join(dir, "slot-"+name), 0o700); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(map[string]any{
		"v": 1, "product": product, "channel": channel, "hardware": "rig", "version": "1.0.0", "epoch": 1,
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.WriteFile(about, data, 0o600), boot.FileInit(dir, "a")); err != nil {
		return nil, err
	}
	if _, err := boot.FileBoot(dir); err != nil {
		return nil, err
	}
	s := &l.gateway.Settings
	s.Helper = filepath.Join(l.dir, "install.sock")
	cmd := exec.CommandContext(ctx, binary, "helper", "--listen", s.Helper, "--peer-uid", strconv.Itoa(os.Getuid()), "--trust", s.Trust,
		"--state", filepath.Join(l.dir, "install"), "--slots", dir, "--product-file", about, "--reboot-file", filepath.Join(l.dir, "reboot"),
		"--tpm", s.TPM, "--event-log", filepath.Join(l.dir, "gateway", "boot", "eventlog"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, cmd.Start()
}

// same says whether two files hold the same, up to the end of the first.
func same(want, got string) error {
	var sums [2][]byte
	info, err := os.Stat(want)
	if err != nil {
		return err
	}
	for i, path := range []string{want, got} {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		hash := sha256.New()
		_, err = io.CopyN(hash, f, info.Size())
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		sums[i] = hash.Sum(nil)
	}
	if !bytes.Equal(sums[0], sums[1]) {
		return fmt.Errorf("%s is not what was installed", got)
	}
	return nil
}
