package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	maxIdleRSS   = 12_000_000 // bytes
	maxWakeups   = 0.2        // a second
	settleTime   = 30 * time.Second
	wakeupWindow = 60 * time.Second // the budget's window is three times as long; the rate is what counts
	maxGrowth    = 500_000          // bytes over the cycles
)

// idle measures an agent that has nothing to do. Two lines of the budget come
// from one run.
type idle struct {
	once     sync.Once
	rss      int64   // bytes
	grown    int64   // bytes, in another process that did nothing but health cycles
	wakeups  float64 // a second
	switches float64 // voluntary, of all threads, a second
	err      error
}

func (i *idle) memory(ctx context.Context) (figure, error) {
	i.once.Do(func() { i.err = i.run(ctx) })
	if i.err != nil {
		return notBuilt(i.err)
	}
	return figure{
		text: fmt.Sprintf("%.1f MB; %+.2f MB", float64(i.rss)/1e6, float64(i.grown)/1e6),
		over: i.rss > maxIdleRSS || i.grown > maxGrowth,
	}, nil
}

func (i *idle) rate(ctx context.Context) (figure, error) {
	i.once.Do(func() { i.err = i.run(ctx) })
	if i.err != nil {
		return notBuilt(i.err)
	}
	return figure{text: fmt.Sprintf("%.2f/s over %.0f s (%.2f switches/s)", i.wakeups, wakeupWindow.Seconds(), i.switches), over: i.wakeups > maxWakeups}, nil
}

// notBuilt turns a missing emulator into a line that was not measured.
func notBuilt(err error) (figure, error) {
	if errors.Is(err, errNoTPM) {
		return figure{text: err.Error(), notBuilt: true}, nil
	}
	return figure{}, err
}

func (i *idle) run(ctx context.Context) error {
	l, err := newLab(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.enrol(ctx); err != nil {
		return err
	}
	binary := filepath.Join(l.dir, "gatewarden")
	if err := buildDevice(ctx, binary); err != nil {
		return err
	}
	cmd, err := l.process(ctx, binary)
	if err != nil {
		return err
	}
	defer stop(cmd)
	var group errgroup.Group // the cycles disturb neither count nor memory of the idle process
	group.Go(func() (err error) {
		i.grown, err = growth(ctx)
		return err
	})
	return errors.Join(i.watch(ctx, cmd.Process.Pid), group.Wait())
}

// watch takes the figures of an idle process.
func (i *idle) watch(ctx context.Context, pid int) (err error) {
	if err := sleep(ctx, settleTime); err != nil {
		return err
	}
	i.wakeups, i.switches, i.rss, err = window(ctx, pid)
	return err
}

// window watches a process for a while, in which it reports its health at least
// once. A wakeup is a tenth of a second in which any thread ran: what happens for
// one timer or packet, through several threads and with its writes to disk, is
// one. perSecond counts each time a thread gave up the processor by itself. rss is
// the most that was seen.
func window(ctx context.Context, pid int) (rate, perSecond float64, rss int64, err error) {
	const span = 100 * time.Millisecond
	first, err := switches(pid)
	if err != nil {
		return 0, 0, 0, err
	}
	last, moments := first, 0
	for range int(wakeupWindow / span) {
		if err := sleep(ctx, span); err != nil {
			return 0, 0, 0, err
		}
		now, err := switches(pid)
		if err != nil {
			return 0, 0, 0, err
		}
		if now != last {
			moments++
		}
		last = now
		kilobytes, err := statusField(pid, "VmRSS")
		if err != nil {
			return 0, 0, 0, err
		}
		rss = max(rss, kilobytes*1024)
	}
	return float64(moments) / wakeupWindow.Seconds(), float64(last-first) / wakeupWindow.Seconds(), rss, nil
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
}

// sleep is what is measured here: time without anything to do.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// switches counts how often threads of a process gave up the processor by
// themselves.
func switches(pid int) (int64, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("list threads of %d: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	var sum int64
	for _, task := range tasks {
		n, err := field(task, "voluntary_ctxt_switches")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func statusField(pid int, name string) (int64, error) {
	return field(fmt.Sprintf("/proc/%d/status", pid), name)
}

// field reads a number, in kB where it has a unit, from a status file (proc(5)).
func field(path, name string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	match := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(data)
	if match == nil {
		return 0, fmt.Errorf("%s has no field %s", path, name)
	}
	return strconv.ParseInt(string(match[1]), 10, 64)
}
