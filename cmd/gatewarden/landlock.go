package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"

	"github.com/gatewarden/gatewarden/agent"
	"github.com/gatewarden/gatewarden/agent/health"
)

const (
	mayRead  landlock.AccessFSSet = ll.AccessFSReadFile | ll.AccessFSReadDir
	mayWrite                      = mayRead | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSMakeDir |
		ll.AccessFSMakeSock | ll.AccessFSRemoveFile | ll.AccessFSRemoveDir
	mayTalk landlock.AccessFSSet = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSIoctlDev
)

// restrict closes the file system to this process, for good, but for what an agent
// with these settings needs; running a program is not among it. Where the kernel
// has no Landlock that is left to the unit, and the log says so.
func restrict(s agent.Settings, resolv string, log *slog.Logger) {
	// A rule needs its folder. Who can't make it here is told by New.
	_ = os.MkdirAll(s.State, 0o700)
	_ = os.MkdirAll(filepath.Dir(s.Socket), 0o750)
	closeBut(log, s.TPM,
		landlock.PathAccess(mayWrite, s.State, filepath.Dir(s.Socket)).IgnoreIfMissing(),
		landlock.PathAccess(mayRead, append(readable(resolv), s.Trust, s.Health.Services)...).IgnoreIfMissing(),
		landlock.PathAccess(ll.AccessFSReadFile, "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime").IgnoreIfMissing(),
	)
}

// restrictReader is the same for the process that gives secrets to units.
func restrictReader(s agent.Settings, log *slog.Logger) {
	closeBut(log, s.TPM, landlock.PathAccess(mayRead, s.State).IgnoreIfMissing())
}

func closeBut(log *slog.Logger, chip string, rules ...landlock.Rule) {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		log.Warn("Landlock is not there: only the unit closes the file system", "error", err)
		return
	}
	if !strings.HasPrefix(chip, "unix:") {
		rules = append(rules, landlock.PathAccess(mayTalk, chip).IgnoreIfMissing())
	}
	// V5 knows devices. A later one would have to allow each Unix socket.
	if err := landlock.V5.BestEffort().RestrictPaths(rules...); err != nil {
		log.Warn("Landlock does not work: only the unit closes the file system", "error", err)
		return
	}
	log.Info("the file system is closed but for what the agent needs", "landlock", abi)
}

// readable are the folders that Go's resolver, its certificate store and the health
// checks read. A resolver's file is replaced by a new one when the network changes,
// so it is its folder that must stay open: all of /etc, if it is no link to /run.
func readable(resolv string) []string {
	if target, err := filepath.EvalSymlinks(resolv); err == nil {
		resolv = target
	}
	return []string{
		filepath.Dir(resolv), "/etc/ssl", "/etc/pki", "/usr/share/ca-certificates", "/usr/share/zoneinfo",
		"/proc/self", "/sys/class/dmi/id", health.DefaultEFIVars,
	}
}
