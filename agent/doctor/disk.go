package doctor

import (
	"context"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// helperState is the helper's folder, unless it was told another.
const helperState = "/var/lib/gatewarden-helper"

const (
	roomWanted = 64 << 20 // bytes for state, as docs/hardware.md says
	roomNeeded = 4 << 20  // bytes; below, nothing goes on
)

// disk is whether state has a place that lasts.
func disk() *Check {
	return &Check{
		Name: "disk", About: "where agent and helper keep their state: room, and whether it lasts", For: "enrol update report",
		Cases: `
volatile problem enrol seal update report
This is memory: keys, sealed secrets and what was installed are gone at the next boot, and an operator has to approve the gateway again.
Mount a partition there, with a file system that has a journal.

read-only problem enrol seal update report
Nothing can be stored here.
Mount it read-write. If it was read-write before, look at dmesg: Linux does that to a damaged file system.

in-slot problem update
State lies in a slot: the next release starts without it, as a new device.
Put /var/lib/gatewarden and /var/lib/gatewarden-helper on a partition that both slots mount.

low advice update report
There is little room for messages that wait for a network, and for the next release's kernel image.
Make room, or give the partition more; reckon with 64 MB and a kernel image.

full problem update report
There is no room: nothing new can be stored, whatever happens.
Make room now; "du -xh --max-depth=2 /var" shows where it went.
`,
		Look: lookAtDisk,
	}
}

func lookAtDisk(_ context.Context, m *Machine, n *notes) {
	p, productErr := m.Product()
	root, err := m.Kernel.Volume(m.at("/"))
	if err != nil {
		n.unseen("look at the root file system", err)
		return
	}
	wanted := uint64(roomWanted)
	if largest, _, err := images(m.at(filepath.Join(p.ESP, "EFI", "Linux"))); productErr == nil && p.ESP != "" && err == nil {
		wanted += largest
	}
	seen := map[uint64]bool{}
	for _, folder := range []string{m.Settings.State, helperState} {
		v, err := m.volume(folder)
		if err != nil {
			n.unseen("look at "+folder, err)
			continue
		}
		if !seen[v.Device] {
			seen[v.Device] = true
			judgeVolume(folder, v, productErr == nil && v.Device == root.Device, wanted, n)
		}
	}
	n.ok("state has room, on a disk that lasts")
}

func judgeVolume(folder string, v Volume, inSlot bool, wanted uint64, n *notes) {
	switch {
	case v.Kind == unix.TMPFS_MAGIC || v.Kind == unix.RAMFS_MAGIC:
		n.is("volatile", "%s is in memory", folder)
		return
	case v.ReadOnly:
		n.is("read-only", "%s is mounted read-only", folder)
		return
	case inSlot:
		n.is("in-slot", "%s is on the root file system", folder)
		return
	case v.Free < roomNeeded:
		n.is("full", "%s free at %s", size(v.Free), folder)
		return
	case v.Free < wanted:
		n.is("low", "%s free at %s, %s are wanted", size(v.Free), folder, size(wanted))
	}
}

// volume is where a folder is, or would be made.
func (m *Machine) volume(folder string) (Volume, error) {
	for {
		v, err := m.Kernel.Volume(m.at(folder))
		if !absent(err) || folder == "/" {
			return v, err
		}
		folder = filepath.Dir(folder)
	}
}
