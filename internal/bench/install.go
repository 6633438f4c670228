package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fullImage     = 256 << 20
	smallImage    = 64 << 20
	maxInstallCPU = 0.8        // of RAUC's, in the same run
	maxInstallRSS = 24_000_000 // bytes, of agent and helper together
)

// cost is what an install took of one process: processor time, user and system,
// and the most memory of its life.
type cost struct {
	cpu time.Duration
	rss int64 // bytes
}

// install has agent and helper, as processes of their own, install an image that
// shares nothing with the running one. It is compared with one pass that reads,
// hashes and writes the same image, and with RAUC where that can run. What kernel
// threads and servers do counts for nobody: ours comes through TLS, RAUC's bundle
// lies on the disk.
func install(ctx context.Context) (figure, error) {
	dir, err := os.MkdirTemp("", "gwinstall")
	if err != nil {
		return figure{}, fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	binary, image := filepath.Join(dir, "gatewarden"), filepath.Join(dir, "full.img")
	small := filepath.Join(dir, "small.img")
	if err := errors.Join(buildDevice(ctx, binary), writeImage(image, fullImage), writeImage(small, smallImage)); err != nil {
		return figure{}, err
	}
	before, err := onePass(image, filepath.Join(dir, "copy.img"))
	if err != nil {
		return figure{}, err
	}
	full, err := installImage(ctx, binary, image)
	if err != nil {
		return notBuilt(err)
	}
	rauc, why := raucInstall(ctx, dir, image)
	after, err := onePass(image, filepath.Join(dir, "copy.img"))
	if err != nil {
		return figure{}, err
	}
	less, err := installImage(ctx, binary, small)
	if err != nil {
		return figure{}, err
	}
	return compare(full, less, (before+after)/2, rauc, why), nil
}

// installed is the cost of both our processes.
type installed struct{ agent, helper cost }

func (i installed) cpu() time.Duration { return i.agent.cpu + i.helper.cpu }
func (i installed) rss() int64         { return i.agent.rss + i.helper.rss }

func (i installed) memory() string {
	return fmt.Sprintf("%.1f + %.1f MB", float64(i.agent.rss)/1e6, float64(i.helper.rss)/1e6)
}

// compare words the figure. Without RAUC the processor time is not judged: its
// published figure is of another machine.
func compare(full, small installed, floor time.Duration, rauc cost, why error) figure {
	f := figure{over: full.rss() > maxInstallRSS}
	f.text = fmt.Sprintf("CPU %.2f + %.2f s (agent + helper), %.1fx of the floor's %.2f s; peak RSS %s (64 MiB: %s)",
		full.agent.cpu.Seconds(), full.helper.cpu.Seconds(), full.cpu().Seconds()/floor.Seconds(), floor.Seconds(), full.memory(), small.memory())
	if why != nil {
		f.text += fmt.Sprintf("; RAUC was not run (%v), elsewhere it took 1.78 CPU-s and 76 MB", why)
		return f
	}
	f.text += fmt.Sprintf("; %.1fx of RAUC's %.2f s, which took %.1f MB", full.cpu().Seconds()/rauc.cpu.Seconds(), rauc.cpu.Seconds(), float64(rauc.rss)/1e6)
	f.over = f.over || full.cpu().Seconds() > maxInstallCPU*rauc.cpu.Seconds()
	return f
}

// writeImage makes an image of which half is compressible, as of file systems.
func writeImage(path string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{7})
	buf := make([]byte, 1<<20)
	for range size / len(buf) {
		for at := 0; at < len(buf); at += 8192 {
			_, _ = random.Read(buf[at : at+4096]) // it never fails
		}
		if _, err := f.Write(buf); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// onePass is the floor: the processor time to read an image, hash it and write it
// down durably. The thread is the caller's alone meanwhile.
func onePass(from, to string) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, err := threadTime()
	if err != nil {
		return 0, err
	}
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer os.Remove(to)
	defer out.Close()
	hash, buf := sha256.New(), make([]byte, 1<<20)
	for {
		n, err := in.Read(buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		hash.Write(buf[:n])
		if _, err := out.Write(buf[:n]); err != nil {
			return 0, err
		}
	}
	if err := out.Sync(); err != nil {
		return 0, err
	}
	ended, err := threadTime()
	return ended - began, err
}

func threadTime() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// spent reads what a process took so far (proc(5)).
func spent(pid int) (cost, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return cost{}, err
	}
	// The name, in parentheses, may hold anything; state is the first field behind it.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	var ticks [2]int64 // of 10 ms: user, system
	for i := range ticks {
		if _, err := fmt.Sscan(string(fields[11+i]), &ticks[i]); err != nil {
			return cost{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
		}
	}
	peak, err := statusField(pid, "VmHWM")
	return cost{time.Duration(ticks[0]+ticks[1]) * 10 * time.Millisecond, peak * 1024}, err
}
