package demo

import (
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
)

// process is a part of a gateway that runs as its own process.
type process struct {
	name   string
	log    string
	cmd    *exec.Cmd
	ended  chan struct{}
	wanted atomic.Bool // to end: else its end is a fault
}

func start(name, log, binary string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &process{name: name, log: log, cmd: exec.Command(binary, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // failed asks how it ended
	}()
	return p, nil
}

// end sends sig and waits until the process is gone.
func (p *process) end(sig syscall.Signal) {
	if p == nil {
		return
	}
	p.wanted.Store(true)
	_ = p.cmd.Process.Signal(sig) // gone already is as good
	<-p.ended
}

// failed returns an error if the process ended by itself.
func (p *process) failed() error {
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		if !p.wanted.Load() {
			return fmt.Errorf("%s ended (%s); its last words:\n%s", p.name, p.cmd.ProcessState, tail(p.log, 600))
		}
	default:
	}
	return nil
}

func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(data) > n {
		data = data[len(data)-n:]
	}
	return string(data)
}
