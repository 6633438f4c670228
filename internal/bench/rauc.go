package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gatewarden/gatewarden/internal/bench/rig"
)

// raucConfig describes a machine with two slots that are files, to RAUC.
const raucConfig = `[system]
compatible=bench
bootloader=noop
mountprefix=%[1]s/mount
statusfile=%[1]s/status
[keyring]
path=%[1]s/cert.pem
[slot.rootfs.0]
device=%[1]s/slot-a
type=raw
bootname=A
[slot.rootfs.1]
device=%[1]s/slot-b
type=raw
bootname=B
`

// raucManifest describes the bundle. The plain format needs no device mapper.
const raucManifest = `[update]
compatible=bench
version=2.0.0
[bundle]
format=plain
[image.rootfs]
filename=rootfs.img
`

// raucInstall has RAUC's service, on a bus of its own, install image from a signed
// bundle. An error says why it could not.
func raucInstall(ctx context.Context, dir, image string) (cost, error) {
	if os.Geteuid() != 0 {
		return cost{}, errors.New("it needs root")
	}
	for _, tool := range []string{"rauc", "mksquashfs", "dbus-daemon", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			return cost{}, fmt.Errorf("%s is not installed", tool)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, installFor)
	defer cancel()
	dir = filepath.Join(dir, "rauc")
	if err := raucBundle(ctx, dir, image); err != nil {
		return cost{}, err
	}
	bus, address, err := raucBus(ctx)
	if err != nil {
		return cost{}, err
	}
	defer stop(bus)
	environment := append(os.Environ(), "DBUS_STARTER_BUS_TYPE=session", "DBUS_SESSION_BUS_ADDRESS="+address)
	service := exec.CommandContext(ctx, "rauc", "service", "--conf", filepath.Join(dir, "system.conf"), "--override-boot-slot=A")
	service.Env, service.SysProcAttr = environment, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := service.Start(); err != nil {
		return cost{}, err
	}
	defer stop(service)
	client := func(args ...string) error { return tool(ctx, environment, "rauc", args...) }
	if err := rig.Await(ctx, "start RAUC", func() error { return client("status") }); err != nil {
		return cost{}, err
	}
	if err := client("install", filepath.Join(dir, "bundle.raucb")); err != nil {
		return cost{}, err
	}
	took, err := spent(service.Process.Pid)
	return took, errors.Join(err, same(image, filepath.Join(dir, "slot-b")))
}

// raucBundle makes slots, configuration and a bundle of image, below dir.
func raucBundle(ctx context.Context, dir, image string) error {
	content := filepath.Join(dir, "content")
	if err := errors.Join(os.MkdirAll(content, 0o700), os.Mkdir(filepath.Join(dir, "mount"), 0o700)); err != nil {
		return err
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "system.conf"), fmt.Appendf(nil, raucConfig, dir), 0o600),
		os.WriteFile(filepath.Join(content, "manifest.raucm"), []byte(raucManifest), 0o600),
		os.Link(image, filepath.Join(content, "rootfs.img")),
	)
	for _, slot := range []string{"slot-a", "slot-b"} {
		path := filepath.Join(dir, slot)
		err = errors.Join(err, os.WriteFile(path, nil, 0o600), os.Truncate(path, fullImage))
	}
	if err != nil {
		return err
	}
	key, cert := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	err = tool(ctx, nil, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=bench",
		"-addext", "keyUsage=digitalSignature", "-keyout", key, "-out", cert)
	if err != nil {
		return err
	}
	return tool(ctx, nil, "rauc", "--cert", cert, "--key", key, "--keyring", cert, "bundle", content, filepath.Join(dir, "bundle.raucb"))
}

// raucBus starts a message bus of RAUC's own.
func raucBus(ctx context.Context) (*exec.Cmd, string, error) {
	bus := exec.CommandContext(ctx, "dbus-daemon", "--session", "--nofork", "--print-address")
	bus.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := bus.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := bus.Start(); err != nil {
		return nil, "", err
	}
	var address string
	if _, err := fmt.Fscanln(out, &address); err != nil {
		stop(bus)
		return nil, "", fmt.Errorf("read address of the bus: %w", err)
	}
	return bus, address, nil
}

// tool runs a program; its error carries what it said.
func tool(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
