package tpmtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Power is a machine that is switched on.
type Power struct {
	Socket string // Unix stream socket; each connection has its own handles, as with /dev/tpmrm0
	PID    int    // of swtpm

	cmd    *exec.Cmd
	mux    *mux
	log    *bytes.Buffer
	tmp    string // folder to remove, if Socket needed one
	waited chan struct{}
	once   sync.Once
}

// offTimeout is what an orderly switch-off may take before it becomes a power cut.
const offTimeout = time.Minute

// maxSocketPath is what fits into sockaddr_un, in bytes, with the final zero.
const maxSocketPath = 108

// PowerOn starts the chip as a machine's power does: PCRs at their start values,
// TPM2_Startup(CLEAR) done. Socket is Dir/tpm.sock, the same after each power cycle,
// unless that path is too long for a socket. ctx bounds the start only.
func (m *Machine) PowerOn(ctx context.Context) (*Power, error) {
	swtpm, err := tool("swtpm", "swtpm")
	if err != nil {
		return nil, fmt.Errorf("power on: %w", err)
	}
	p := &Power{log: new(bytes.Buffer), waited: make(chan struct{})}
	chip, err := p.start(swtpm, m.state())
	if err != nil {
		return nil, fmt.Errorf("power on: %w", err)
	}
	if err := p.serve(ctx, m.Dir, chip); err != nil {
		_ = p.Kill()
		return nil, fmt.Errorf("power on: %w: %s", err, bytes.TrimSpace(p.log.Bytes()))
	}
	return p, nil
}

// start runs swtpm on one end of a socket pair: when this process ends, however it
// ends, the pair closes and swtpm with it.
func (p *Power) start(swtpm, state string) (net.Conn, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "tpm"), os.NewFile(uintptr(pair[1]), "swtpm")
	defer ours.Close()
	defer theirs.Close()
	p.cmd = exec.Command(swtpm, "socket", "--tpm2", "--tpmstate", "dir="+state,
		"--fd", "3", "--flags", "not-need-init,startup-clear")
	p.cmd.ExtraFiles = []*os.File{theirs}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is not for the chip
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.PID = p.cmd.Process.Pid
	go func() {
		_ = p.cmd.Wait()
		close(p.waited)
	}()
	return net.FileConn(ours)
}

func (p *Power) serve(ctx context.Context, dir string, chip net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = chip.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	mux, err := newMux(chip)
	if err != nil {
		chip.Close()
		p.wait() // so that its log is complete
		return err
	}
	p.mux = mux
	p.Socket = filepath.Join(dir, "tpm.sock")
	if len(p.Socket) >= maxSocketPath {
		if p.tmp, err = os.MkdirTemp("", "gwtpm"); err != nil {
			return err
		}
		p.Socket = filepath.Join(p.tmp, "tpm.sock")
	}
	_ = os.Remove(p.Socket) // left by a process that was killed
	return mux.listen(p.Socket)
}

// Extend extends a PCR of the SHA-256 bank, as firmware does before any system runs.
func (p *Power) Extend(_ context.Context, pcr int, digest [32]byte) error {
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]},
		}},
	}.Execute(p.mux)
	if err != nil {
		return fmt.Errorf("extend PCR: %w", err)
	}
	return nil
}

// Measurement is one event of a boot.
type Measurement struct {
	PCR    int
	Digest [32]byte
}

// Boot extends what a boot measures, in order.
func (p *Power) Boot(ctx context.Context, measurements []Measurement) error {
	for _, m := range measurements {
		if err := p.Extend(ctx, m.PCR, m.Digest); err != nil {
			return err
		}
	}
	return nil
}

// SetClock moves the chip's clock forward, in milliseconds (TPM2_ClockSet, TPM 2.0
// Part 3, 29.2), as if it had been powered for longer. The owner must have no
// password.
func (p *Power) SetClock(ms uint64) error {
	command := []byte{
		0x80, 0x02, 0, 0, 0, 35, 0, 0, 0x01, 0x28, 0x40, 0, 0, 1, // by the owner,
		0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, // who has no password
	}
	response, err := p.mux.Send(binary.BigEndian.AppendUint64(command, ms))
	if err == nil && (len(response) < 10 || binary.BigEndian.Uint32(response[6:]) != 0) {
		err = fmt.Errorf("the chip answered %x", response)
	}
	if err != nil {
		return fmt.Errorf("set the TPM's clock: %w", err)
	}
	return nil
}

// Raw is the chip without the resource manager, as /dev/tpm0 is. No client may use
// Socket at the same time.
func (p *Power) Raw() transport.TPM { return p.mux }

// Handles lists what is in the chip now, of all clients, beside persistent objects:
// loaded objects and sessions, and sessions that were saved.
func (p *Power) Handles() ([]uint32, error) {
	var all []uint32
	for _, kind := range []uint32{typeTransient, typeHMAC, typePolicy} {
		rsp, err := tpm2.GetCapability{
			Capability: tpm2.TPMCapHandles, Property: kind, PropertyCount: 64,
		}.Execute(p.mux)
		if err != nil {
			return nil, fmt.Errorf("list handles: %w", err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return nil, fmt.Errorf("list handles: %w", err)
		}
		for _, h := range list.Handle {
			all = append(all, uint32(h))
		}
	}
	return all, nil
}

// Kill is a power cut: swtpm gets SIGKILL and all connections close. It returns
// when the process has gone. Repeating it, or after Off, is harmless.
func (p *Power) Kill() error {
	var err error
	p.once.Do(func() {
		if err = p.cmd.Process.Kill(); errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
		p.end()
	})
	return err
}

// Off switches the machine off in order: TPM2_Shutdown(CLEAR) first.
func (p *Power) Off() error {
	var err error
	p.once.Do(func() {
		shutdown := binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 12}, uint32(tpm2.TPMCCShutdown))
		_, err = p.mux.Send(append(shutdown, 0, 0))
		p.mux.chip.Close() // swtpm stores its state and ends
		if !p.wait() {
			err = fmt.Errorf("swtpm did not end within %v", offTimeout)
		}
		p.end()
	})
	if err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	return nil
}

// wait gives the process time to end, then kills it.
func (p *Power) wait() (orderly bool) {
	select {
	case <-p.waited:
		return true
	case <-time.After(offTimeout):
		_ = p.cmd.Process.Kill()
		return false
	}
}

// end waits for the process and closes what clients hold.
func (p *Power) end() {
	if p.mux != nil {
		p.mux.close()
	}
	<-p.waited
	if p.tmp != "" {
		_ = os.RemoveAll(p.tmp)
	} else if p.Socket != "" {
		_ = os.Remove(p.Socket)
	}
}
