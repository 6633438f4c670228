package tpm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// device is a machine with what an enrolled agent has on its disk.
type device struct {
	*testing.T
	machine  *tpmtest.Machine
	power    *tpmtest.Power
	owner    *ecdsa.PrivateKey
	ak, key  []byte // PEM
	secret   []byte // sealed
	approved []seal.Signed
}

// newDevice is cheap: it is made anew where a fault destroyed it.
func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{T: t}
	d.machine, d.power = tpmtest.Start(t)
	d.owner = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	d.boot()
	d.provision()
	return d
}

func (d *device) boot() {
	d.Helper()
	var boot []tpmtest.Measurement
	for _, pcr := range []int{4, 7, 11, 12} {
		boot = append(boot, tpmtest.Measurement{PCR: pcr, Digest: sha256.Sum256([]byte{byte(pcr)})})
	}
	if err := d.power.Boot(d.Context(), boot); err != nil {
		d.Fatal(err)
	}
}

// provision makes keys and a sealed secret.
func (d *device) provision() {
	d.Helper()
	chip, _ := connect(d.T, d.power)
	defer chip.Close()
	ctx := d.Context()
	d.ak = must(chip.CreateKey(ctx, tpm.AK))(d).PEM()
	d.key = must(chip.CreateKey(ctx, tpm.Operational))(d).PEM()
	var epoch counter.Record
	err := chip.Do(ctx, "make counter", func(c *tpm.Chip) (err error) {
		epoch, err = counter.Define(c, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(d), counter.Index, nil)
		return err
	})
	if err != nil {
		d.Fatal(err)
	}
	ref := seal.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{4, 11, 12, 13}}
	d.secret = must(seal.Seal(ctx, chip, []byte("the secret"), seal.Policy{
		Name: "disk", Ref: ref, Key: d.owner.Public(), SecureBoot: true,
		Counter: seal.Counter{Index: epoch.Index, Name: epoch.Name(), Value: epoch.Initial},
	}))(d)
	values := make(map[int]seal.Digest)
	for pcr, value := range must(chip.ReadPCRs(ctx, ref.PCRs))(d) {
		values[pcr] = value
	}
	d.approved = []seal.Signed{must(seal.Approve(d.owner, ref, values))(d)}
}

// paths are what an agent asks of its chip. Each begins with a new connection, and
// says which keys it made.
func paths() map[string]func(context.Context, *device, *tpm.TPM) (made []*tpm.Key, err error) {
	return map[string]func(context.Context, *device, *tpm.TPM) ([]*tpm.Key, error){
		"enrol": func(ctx context.Context, d *device, chip *tpm.TPM) ([]*tpm.Key, error) {
			return nil, enrolAndAttest(ctx, d, chip)
		},
		"attest": func(ctx context.Context, d *device, chip *tpm.TPM) ([]*tpm.Key, error) {
			ak, err := chip.LoadKey(ctx, d.ak)
			if err != nil {
				return nil, err
			}
			if _, _, err := chip.Quote(ctx, ak, []byte("nonce"), pcrs()); err != nil {
				return nil, err
			}
			_, err = chip.ReadPCRs(ctx, pcrs())
			return nil, err
		},
		"unseal": func(ctx context.Context, d *device, chip *tpm.TPM) ([]*tpm.Key, error) {
			secret, err := seal.Unseal(ctx, chip, d.secret, d.approved)
			if err == nil && string(secret) != "the secret" {
				err = errors.New("another secret")
			}
			return nil, err
		},
		"rotate": rotate,
	}
}

func rotate(ctx context.Context, d *device, chip *tpm.TPM) ([]*tpm.Key, error) {
	ak, err := chip.LoadKey(ctx, d.ak)
	if err != nil {
		return nil, err
	}
	old, err := chip.LoadKey(ctx, d.key)
	if err != nil {
		return nil, err
	}
	next, err := chip.CreateKey(ctx, tpm.Operational)
	if err != nil {
		return nil, err
	}
	made := []*tpm.Key{next}
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, next); err != nil {
		return made, err
	}
	if _, _, err := chip.Certify(ctx, ak, next, []byte("nonce")); err != nil {
		return made, err
	}
	return made, old.Close()
}

// pathFault is one fault of the list that every path is held against.
type pathFault struct {
	fault func(d *device, release <-chan struct{}) tpmtest.Fault
	// once lists what may come of one such answer, always what of each command with
	// that code failing; nil in them is success.
	once, always []error
	ends         string // "power" or "chip": what the fault takes away
}

func answers(rc tpm2.TPMRC) func(*device, <-chan struct{}) tpmtest.Fault {
	return func(*device, <-chan struct{}) tpmtest.Fault { return tpmtest.ResponseCode(rc) }
}

func pathFaults() map[string]pathFault {
	recovers, busy := []error{nil}, []error{tpm.ErrBusy}
	damaged := []error{tpm.ErrDamaged}
	lost := []error{tpm.ErrAbsent, tpm.ErrBusy}
	return map[string]pathFault{
		"RETRY":          {fault: answers(tpm2.TPMRCRetry), once: recovers, always: busy},
		"YIELDED":        {fault: answers(tpm2.TPMRCYielded), once: recovers, always: busy},
		"TESTING":        {fault: answers(tpm2.TPMRCTesting), once: recovers, always: busy},
		"NV_RATE":        {fault: answers(tpm2.TPMRCNVRate), once: recovers, always: busy},
		"LOCKOUT":        {fault: answers(tpm2.TPMRCLockout), once: []error{tpm.ErrLockedOut}, always: []error{tpm.ErrLockedOut}},
		"OBJECT_MEMORY":  {fault: answers(tpm2.TPMRCObjectMemory), once: []error{nil, tpm.ErrBusy}, always: busy},
		"SESSION_MEMORY": {fault: answers(tpm2.TPMRCSessionMemory), once: busy, always: busy},
		"short read": {once: damaged, always: damaged, fault: func(*device, <-chan struct{}) tpmtest.Fault {
			return tpmtest.Short(7)
		}},
		"garbage length": {once: damaged, always: damaged, fault: func(*device, <-chan struct{}) tpmtest.Fault {
			return tpmtest.Garbage([]byte{0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
		}},
		"stall": {once: busy, always: busy, fault: func(_ *device, release <-chan struct{}) tpmtest.Fault {
			return tpmtest.Stall(release)
		}},
		"killed in mid-command": {once: lost, ends: "power", fault: func(d *device, _ <-chan struct{}) tpmtest.Fault {
			return tpmtest.PowerCut(d.power)
		}},
		"cleared": {once: []error{nil, tpm.ErrReplaced, tpm.ErrPolicy, tpm.ErrDamaged}, ends: "chip", fault: func(*device, <-chan struct{}) tpmtest.Fault {
			return func(next transport.TPM, command []byte) ([]byte, error) {
				lockout := tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}
				if _, err := (tpm2.Clear{AuthHandle: lockout}).Execute(next); err != nil {
					return nil, err
				}
				return next.Send(command)
			}
		}},
		"replaced": {once: []error{tpm.ErrAbsent, tpm.ErrReplaced}, ends: "chip", fault: func(d *device, _ <-chan struct{}) tpmtest.Fault {
			// The socket breaks, and behind it is another chip from then on.
			return func(transport.TPM, []byte) ([]byte, error) {
				_ = d.power.Kill()
				d.machine, d.power = tpmtest.Start(d.T)
				d.boot()
				return nil, errors.New("connection cut")
			}
		}},
	}
}

// TestEveryFaultAtEveryCommandOfEachPath: enrol, attest, unseal and rotate, with each
// fault at each command, by its index (once) and by its code (always). It ends in time
// with an error of the fault's class, or recovers; no key is half-made; and afterwards
// the same path works, on a chip that was cleared or replaced after enrolling anew.
func TestEveryFaultAtEveryCommandOfEachPath(t *testing.T) {
	t.Parallel()
	for path, walk := range paths() {
		for name, f := range pathFaults() {
			t.Run(path+"/"+name, func(t *testing.T) {
				t.Parallel()
				d := newDevice(t)
				chip, faults := connect(t, d.power)
				if _, err := walk(t.Context(), d, chip); err != nil {
					t.Fatal(err)
				}
				_ = chip.Close()
				codes := faults.Codes() // the flushes of Close are the last
				seen := make(map[tpm2.TPMCC]bool)
				for i, code := range codes {
					if some(path+name, i) {
						d.walkWith(walk, f, name, i+1, 0)
					}
					if !seen[code] && f.always != nil && some(name+path, i) {
						d.walkWith(walk, f, name, 0, code)
					}
					seen[code] = true
				}
			})
		}
	}
}

// some chooses each sixth command for the quick test, not the same for all.
func some(name string, i int) bool {
	return os.Getenv("GATEWARDEN_LONG") != "" || (i+len(name))%6 == 0
}

func (d *device) walkWith(walk func(context.Context, *device, *tpm.TPM) ([]*tpm.Key, error), f pathFault, name string, n int, code tpm2.TPMCC) {
	d.Helper()
	chip, faults := connect(d.T, d.power)
	release := make(chan struct{})
	fault, allowed := f.fault(d, release), f.once
	deadline := hung
	if name == "stall" {
		deadline = 200 * time.Millisecond
	}
	if n != 0 {
		faults.At(n, fault)
	} else {
		faults.On(code, -1, fault)
		allowed = f.always
	}
	ctx, cancel := context.WithTimeout(d.Context(), deadline)
	began := time.Now()
	made, err := walk(ctx, d, chip)
	if took := time.Since(began); took > deadline+hung { // crypto.Signer has no context: it takes half a minute
		d.Errorf("command %d, code %v: it took %v", n, code, took)
	}
	cancel()
	var last tpm2.TPMCC
	if codes := faults.Codes(); n > 0 && n <= len(codes) {
		last = codes[n-1]
	}
	// A flush that fails takes nothing from the work that is done; a fault that comes
	// with Close comes too late.
	late := n > len(faults.Codes()) || last == tpm2.TPMCCFlushContext || code == tpm2.TPMCCFlushContext
	if !oneOf(err, allowed) && !(late && err == nil) && !(name == "stall" && err == nil) {
		d.Errorf("command %d (%v), code %v: %v", n, last, code, err)
	}
	close(release)
	_ = chip.Close()
	d.restore(f, n)
	d.keysAreWhole(made, f, n)
	fresh, _ := connect(d.T, d.power)
	if _, err := walk(d.Context(), d, fresh); err != nil {
		d.Fatalf("after command %d, code %v: %v", n, code, err)
	}
	_ = fresh.Close()
	noHandles(d.T, d.power, 0)
}

// oneOf is true for nil where nil is among them.
func oneOf(err error, classes []error) bool {
	for _, class := range classes {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// restore brings back what the fault took: power, or by enrolling anew what belonged
// to the chip, after the loss of it was named.
func (d *device) restore(f pathFault, n int) {
	d.Helper()
	switch f.ends {
	case "power":
		_ = d.power.Kill()
		d.power = tpmtest.PowerOn(d.T, d.machine)
		d.boot()
		chip, _ := connect(d.T, d.power)
		if info := must(chip.Info(d.Context()))(d); info.LockoutCounter != 0 {
			d.Errorf("after a power cut at command %d the lockout counter is %d", n, info.LockoutCounter)
		}
		_ = chip.Close()
	case "chip":
		chip, _ := connect(d.T, d.power)
		if _, err := chip.LoadKey(d.Context(), d.ak); !errors.Is(err, tpm.ErrReplaced) {
			d.Errorf("a key of before: %v", err)
		}
		if _, err := seal.Unseal(d.Context(), chip, d.secret, d.approved); !errors.Is(err, tpm.ErrReplaced) {
			d.Errorf("a secret of before: %v", err)
		}
		_ = chip.Close()
		d.provision()
	}
}

// keysAreWhole: a key that was handed out loads and is the one that it says, unless
// its chip has gone.
func (d *device) keysAreWhole(made []*tpm.Key, f pathFault, n int) {
	d.Helper()
	chip, _ := connect(d.T, d.power)
	defer chip.Close()
	for _, key := range made {
		loaded, err := chip.LoadKey(d.Context(), key.PEM())
		if f.ends == "chip" && errors.Is(err, tpm.ErrReplaced) {
			continue
		}
		if err != nil || !bytes.Equal(loaded.Name(), key.Name()) {
			d.Errorf("command %d: half a key: %v", n, err)
		}
	}
}
