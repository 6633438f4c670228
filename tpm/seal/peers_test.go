package seal_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy/sigfile"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func TestMain(m *testing.M) { tpmtest.Main(m) }

// relay answers the commands of a client from a chip, until the client leaves.
func relay(chip transport.TPM, client io.ReadWriter) {
	for {
		command := make([]byte, 10)
		if _, err := io.ReadFull(client, command); err != nil {
			return
		}
		size := binary.BigEndian.Uint32(command[2:6])
		if size < 10 || size > 4096 {
			return
		}
		command = append(command, make([]byte, size-10)...)
		if _, err := io.ReadFull(client, command[10:]); err != nil {
			return
		}
		response, err := chip.Send(command)
		if err != nil {
			return
		}
		if _, err := client.Write(response); err != nil {
			return
		}
	}
}

// share gives many clients one connection to a chip, one after the other: sessions
// that one program saved can be loaded by the next.
func share(t *testing.T, power *tpmtest.Power) string {
	t.Helper()
	dir := must(os.MkdirTemp("", "gw"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	listener := must(net.Listen("unix", path))(t)
	conn := must(net.Dial("unix", power.Socket))(t)
	t.Cleanup(func() {
		_ = listener.Close()
		_ = conn.Close()
	})
	chip := transport.FromReadWriteCloser(conn)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			relay(chip, client)
			_ = client.Close()
		}
	}()
	return path
}

// device gives a chip the look of a character device: a terminal without any of a
// terminal's manners.
func device(t *testing.T, power *tpmtest.Power) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal to be had: %v", err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no terminal to be had: %v", err)
	}
	path := fmt.Sprintf("/dev/pts/%d", must(unix.IoctlGetInt(fd, unix.TIOCGPTN))(t))
	slave := must(os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0))(t) // kept open: else the master ends with the first client
	raw := must(unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS))(t)
	raw.Iflag, raw.Oflag, raw.Lflag = 0, 0, 0
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, raw); err != nil {
		t.Fatal(err)
	}
	conn := must(net.Dial("unix", power.Socket))(t)
	go relay(transport.FromReadWriteCloser(conn), master)
	t.Cleanup(func() {
		_ = slave.Close() // ends the relay
		_ = conn.Close()
	})
	return path
}

// tools runs programs of tpm2-tools on a chip, in one folder.
type tools struct {
	t      *testing.T
	dir    string
	socket string
}

func newTools(t *testing.T, power *tpmtest.Power) *tools {
	t.Helper()
	return &tools{t, t.TempDir(), share(t, power)}
}

func (p *tools) run(args ...string) {
	p.t.Helper()
	cmd := tpmtest.Tool(p.t, p.socket, p.dir, args[0], args[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func (p *tools) write(name string, data []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *tools) is(name string, want tpmpolicy.Digest) {
	p.t.Helper()
	got, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil || !bytes.Equal(got, want[:]) {
		p.t.Errorf("%s: the tools say %x %v, we say %s", name, got, err, want)
	}
}

// trial runs commands in a session that only computes.
func (p *tools) trial(steps ...[]string) {
	p.t.Helper()
	p.run("tpm2_startauthsession", "-S", "session.ctx")
	for _, step := range steps {
		p.run(append([]string{step[0], "-S", "session.ctx"}, step[1:]...)...)
	}
	p.run("tpm2_flushcontext", "session.ctx")
}

// TestToolsComputeTheSamePolicies: each step of the policy of a sealed secret, by
// tpm2-tools on a chip, with PCR values that the chip really has.
func TestToolsComputeTheSamePolicies(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	p := newTools(t, g.power)
	public := pemBlock("PUBLIC KEY", der(t)(x509.MarshalPKIXPublicKey(g.key.Public())))
	p.write("key.pem", public)
	p.run("tpm2_loadexternal", "-C", "o", "-G", "ecc", "-u", "key.pem", "-c", "key.ctx", "-n", "key.name", "-a", "userwithauth|decrypt|sign")
	name, err := tpmpolicy.KeyName(g.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(p.dir, "key.name")); err != nil || !bytes.Equal(got, name) {
		t.Errorf("Name: the tools say %x %v, we say %x", got, err, name)
	}
	digest, err := ref(1).Digest()
	if err != nil {
		t.Fatal(err)
	}
	p.write("ref", digest[:])
	p.write("operand", binary.BigEndian.AppendUint64(nil, g.record.Initial))

	pcrPolicy := mustPCR(t, tpmpolicy.Digest{}, good.values([]int{4, 11, 12, 13}))
	p.trial([]string{"tpm2_policypcr", "-l", "sha256:4,11,12,13", "-L", "pcr.policy"})
	p.is("pcr.policy", pcrPolicy)

	authorized := tpmpolicy.Authorize(name, digest[:])
	p.trial([]string{"tpm2_policypcr", "-l", "sha256:4,11,12,13"},
		[]string{"tpm2_policyauthorize", "-i", "pcr.policy", "-q", "ref", "-n", "key.name", "-L", "authorized.policy"})
	p.is("authorized.policy", authorized)

	whole := mustPCR(t, authorized.Counter(g.record.Name(), g.record.Initial), good.values([]int{7}))
	p.trial([]string{"tpm2_policypcr", "-l", "sha256:4,11,12,13"},
		[]string{"tpm2_policyauthorize", "-i", "pcr.policy", "-q", "ref", "-n", "key.name"},
		[]string{"tpm2_policynv", "-C", fmt.Sprintf("%#x", g.record.Index), "-i", "operand", fmt.Sprintf("%#x", g.record.Index), "eq"},
		[]string{"tpm2_policypcr", "-l", "sha256:7", "-L", "whole.policy"})
	p.is("whole.policy", whole)

	or, err := tpmpolicy.Or([]tpmpolicy.Digest{pcrPolicy, whole})
	if err != nil {
		t.Fatal(err)
	}
	p.trial([]string{"tpm2_policyor", "-L", "or.policy", "sha256:pcr.policy,whole.policy"})
	p.is("or.policy", or)
}

// TestToolsAcceptOurApproval: their chip verifies what Approve signed.
func TestToolsAcceptOurApproval(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := newTools(t, g.power)
	signed := approve(t, key, ref(1), good)
	digest, err := ref(1).Digest()
	if err != nil {
		t.Fatal(err)
	}
	p.write("key.pem", pemBlock("PUBLIC KEY", der(t)(x509.MarshalPKIXPublicKey(key.Public()))))
	p.write("message", append(bytes.Clone(signed.Policy[:]), digest[:]...))
	p.write("signature", signed.Signature)
	p.run("tpm2_loadexternal", "-C", "o", "-G", "rsa", "-u", "key.pem", "-c", "key.ctx", "-n", "key.name", "-a", "userwithauth|decrypt|sign")
	p.run("tpm2_verifysignature", "-c", "key.ctx", "-g", "sha256", "-m", "message", "-s", "signature", "-f", "rsassa", "-t", "ticket")
	// They write the exponent out; we, as systemd does, leave it to be the default.
	area := must(tpmpolicy.PublicArea(key.Public()))(t)
	binary.BigEndian.PutUint32(area[16:], 65537)
	if got, want := readFile(t, p.dir, "key.name"), tpmpolicy.Name(area); !bytes.Equal(got, want) {
		t.Errorf("Name: the tools say %x, we say %x", got, want)
	}
}

// TestToolsUnsealWhatWeSealed in the boot that was named, and in no other.
func TestToolsUnsealWhatWeSealed(t *testing.T) {
	g := newGateway(t, release("1"))
	policy := g.policy(1)
	policy.Key = nil
	var branches []tpmpolicy.Digest
	for _, version := range []string{"1", "2"} {
		values := release(version).values(policy.Ref.PCRs)
		policy.Literal = append(policy.Literal, values)
		branches = append(branches, mustPCR(t, tpmpolicy.Digest{}, values))
	}
	blob := g.seal(policy)
	var file struct{ Public, Private []byte }
	if err := json.Unmarshal(blob, &file); err != nil {
		t.Fatal(err)
	}
	unseal := func() ([]byte, error) {
		p := newTools(t, g.power)
		p.write("sealed.pub", file.Public)
		p.write("sealed.priv", file.Private)
		p.write("operand", binary.BigEndian.AppendUint64(nil, g.record.Initial))
		for i, branch := range branches {
			p.write(fmt.Sprint("boot", i), branch[:])
		}
		p.run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "storage.ctx",
			"-a", "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda")
		p.run("tpm2_load", "-C", "storage.ctx", "-u", "sealed.pub", "-r", "sealed.priv", "-c", "sealed.ctx")
		p.run("tpm2_flushcontext", "-t") // the tools share one connection, and leave objects there
		index := fmt.Sprintf("%#x", g.record.Index)
		p.run("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
		defer p.run("tpm2_flushcontext", "session.ctx")
		p.run("tpm2_policypcr", "-S", "session.ctx", "-l", "sha256:4,11,12,13")
		if out, err := tpmtest.Tool(t, p.socket, p.dir, "tpm2_policyor", "-S", "session.ctx", "sha256:boot0,boot1").CombinedOutput(); err != nil {
			return out, err
		}
		p.run("tpm2_policynv", "-S", "session.ctx", "-C", index, "-i", "operand", index, "eq")
		p.run("tpm2_policypcr", "-S", "session.ctx", "-l", "sha256:7")
		return tpmtest.Tool(t, p.socket, p.dir, "tpm2_unseal", "-c", "sealed.ctx", "-p", "session:session.ctx").CombinedOutput()
	}
	for _, version := range []string{"1", "2"} {
		g.boot(release(version))
		if key, err := unseal(); err != nil || !g.opensBox(blob, key) {
			t.Errorf("boot of %s: %s %v", version, key, err)
		}
	}
	g.boot(release("3"))
	if out, err := unseal(); err == nil {
		t.Errorf("the boot of 3 opens it: %x", out)
	}
}

// TestSystemdMeasureSignsTheSame: PCR 11 is computed here from the page of
// systemd-measure; its signature verifies for the policy that we make of that.
func TestSystemdMeasureSignsTheSame(t *testing.T) {
	const measure = "/usr/lib/systemd/systemd-measure"
	if _, err := os.Stat(measure); err != nil {
		t.Skip("systemd-measure is not installed")
	}
	_, power := tpmtest.Start(t)
	p := &tools{t, t.TempDir(), power.Socket}
	args := []string{"sign", "--bank=sha256", "--phase=sysinit", "--phase=sysinit:ready", "--tpm2-device=" + device(t, power)}
	var pcr11 tpmpolicy.Digest
	extend := func(data []byte) {
		event := sha256.Sum256(data)
		pcr11 = sha256.Sum256(append(pcr11[:], event[:]...))
	}
	for i, section := range []string{".linux", ".osrel", ".cmdline", ".initrd"} {
		content := bytes.Repeat([]byte(section), i+1)
		args = append(args, "--"+section[1:]+"="+p.write(section[1:], content))
		extend(append([]byte(section), 0))
		extend(content)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	args = append(args, "--private-key="+p.write("key.pem", pemBlock("PRIVATE KEY", der(t)(x509.MarshalPKCS8PrivateKey(key)))),
		"--public-key="+p.write("pub.pem", pemBlock("PUBLIC KEY", der(t)(x509.MarshalPKIXPublicKey(key.Public())))))
	out, err := exec.CommandContext(t.Context(), measure, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	list, err := sigfile.Parse(out)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d policies, %v\n%s", len(list), err, out)
	}
	for i, phase := range []string{"sysinit", "ready"} {
		extend([]byte(phase))
		ours, err := tpmpolicy.ApproveWithoutRef(key, map[int]tpmpolicy.Digest{11: pcr11})
		if err != nil {
			t.Fatal(err)
		}
		if list[i].Policy != ours.Policy || list[i].Key != ours.Key || !bytes.Equal(list[i].Signature, ours.Signature) {
			t.Errorf("%s: policy %s, ours %s; signatures equal: %v", phase, list[i].Policy, ours.Policy, bytes.Equal(list[i].Signature, ours.Signature))
		}
		if err := list[i].Verify(key.Public(), nil); err != nil {
			t.Errorf("%s: %v", phase, err)
		}
	}
}

func mustPCR(t *testing.T, d tpmpolicy.Digest, values map[int]tpmpolicy.Digest) tpmpolicy.Digest {
	t.Helper()
	d, err := d.PCR(values)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func readFile(t *testing.T, dir, name string) []byte {
	t.Helper()
	return must(os.ReadFile(filepath.Join(dir, name)))(t)
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func der(t *testing.T) func([]byte, error) []byte {
	return func(data []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
}
