package credential_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/credential"
)

const (
	nobody   = 65534
	patience = 2 * time.Minute // a loaded machine takes its time
	managers = 1 << 20         // what systemd takes at most, bytes
)

// TestMain is the child too that asks as another user.
func TestMain(m *testing.M) {
	if socket := os.Getenv("GATEWARDEN_ASK"); socket != "" {
		data, err := ask(socket, os.Getenv("GATEWARDEN_AS"))
		fmt.Printf("%d bytes, uid %d, %v", len(data), os.Getuid(), err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// ask reads what a peer with this address gets.
func ask(socket, address string) ([]byte, error) {
	conn, err := dial(socket, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return io.ReadAll(conn)
}

func dial(socket, address string) (*net.UnixConn, error) {
	var local *net.UnixAddr
	if address != "" {
		local = &net.UnixAddr{Name: address, Net: "unix"}
	}
	conn, err := net.DialUnix("unix", local, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// server serves one secret, "wg-key" of wireguard.service.
type server struct {
	socket string
	asked  chan string // UNIT/NAME of each question that came so far
	log    *lockedBuffer
	ended  chan error
}

func serve(t *testing.T, idle time.Duration) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{socket: filepath.Join(dir, "c.sock"), asked: make(chan string, 100), log: &lockedBuffer{}, ended: make(chan error, 1)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err == nil { // anybody may connect: here it is not the file's mode that protects
		err = errors.Join(os.Chmod(dir, 0o755), os.Chmod(s.socket, 0o666))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		s.ended <- credential.Serve(ctx, credential.Config{
			Listener: l, Idle: idle, Log: slog.New(slog.NewTextHandler(s.log, nil)),
			Open: func(_ context.Context, unit, name string) ([]byte, error) {
				s.asked <- unit + "/" + name
				if unit == "wireguard.service" && name == "wg-key" {
					return []byte("the key"), nil
				}
				return nil, errors.New("no such secret")
			},
		})
	}()
	t.Cleanup(cancel)
	return s
}

// questions returns what came so far.
func (s *server) questions() (list []string) {
	for {
		select {
		case q := <-s.asked:
			list = append(list, q)
		default:
			return list
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can ask as systemd does, and as another user")
	}
}

func TestRootsManagerGetsTheSecretOfTheUnitThatItNames(t *testing.T) {
	asRoot(t)
	s := serve(t, time.Hour)
	if data, err := ask(s.socket, "@c0ffee/unit/wireguard.service/wg-key"); err != nil || string(data) != "the key" {
		t.Errorf("got %q, %v", data, err)
	}
	if data, err := ask(s.socket, "@1/unit/web@eu.service/wg-key"); err != nil || bytes.Contains(data, []byte("the key")) {
		t.Errorf("another unit got %d bytes, %v", len(data), err)
	}
	if got := strings.Join(s.questions(), " "); got != "wireguard.service/wg-key web@eu.service/wg-key" {
		t.Errorf("asked for %s", got)
	}
	if log := s.log.String(); strings.Contains(log, "the key") || !strings.Contains(log, `unit=web@eu.service secret=wg-key reason="no such secret"`) {
		t.Errorf("the log says:\n%s", log)
	}
}

// A connection that ends at once would make an empty credential.
func TestUnitWithoutItsSecretGetsMoreThanTheManagerTakes(t *testing.T) {
	asRoot(t)
	s := serve(t, time.Hour)
	conn, err := dial(s.socket, "@1/unit/a.service/x")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.CloseWrite(); err != nil { // as systemd does
		t.Fatal(err)
	}
	data := make([]byte, managers+1)
	if _, err := io.ReadFull(conn, data); err != nil {
		t.Errorf("the manager would start the unit: %v", err)
	}
	if len(bytes.Trim(data, "\x00")) != 0 {
		t.Error("a refusal says something")
	}
}

// Anybody may bind the manager's address; user 0 of a name space is not root.
func TestForgedAddressOfAnotherUserGetsNothing(t *testing.T) {
	asRoot(t)
	s := serve(t, time.Hour)
	const address = "@c0ffee/unit/wireguard.service/wg-key"
	for name, attr := range map[string]*syscall.SysProcAttr{
		"uid 65534": {Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
		"uid 0": {
			Cloneflags: syscall.CLONE_NEWUSER, Credential: &syscall.Credential{Uid: 0, Gid: 0},
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
		},
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{"GATEWARDEN_ASK=" + s.socket, "GATEWARDEN_AS=" + address}
		cmd.SysProcAttr = attr
		out, err := cmd.CombinedOutput()
		if want := "0 bytes, " + name + ", <nil>"; err != nil || string(out) != want {
			t.Errorf("got %q, %v, want %q", out, err, want)
		}
	}
	if asked := s.questions(); asked != nil {
		t.Errorf("the secret was opened for them: %v", asked)
	}
	if log := s.log.String(); strings.Count(log, "user=65534") != 2 {
		t.Errorf("the log says:\n%s", log)
	}
}

func TestAddressThatIsNotTheManagersGetsNothing(t *testing.T) {
	asRoot(t)
	s := serve(t, time.Hour)
	for _, address := range []string{
		"", "@", "@1", "@1/unit", "@1/unit/wireguard.service", "@1/unit/wireguard.service/", "@1/unit//wg-key", "@/unit/wireguard.service/wg-key",
		"@1/unit/wireguard.service/wg-key/", "@1/unit/wireguard.service/../wg-key", "@1/nspawn/wireguard.service/wg-key", "@zz/unit/wireguard.service/wg-key",
		"@0123456789abcdef0/unit/wireguard.service/wg-key", "@1/unit/wireguard.service/" + strings.Repeat("x/", 30),
	} {
		if data, err := ask(s.socket, address); err != nil || len(data) != 0 {
			t.Errorf("%q got %d bytes, %v", address, len(data), err)
		}
	}
	if asked := s.questions(); asked != nil {
		t.Errorf("a secret was opened for %v", asked)
	}
}

func TestPeerThatTakesNothingHoldsNobodyUp(t *testing.T) {
	asRoot(t)
	s := serve(t, time.Hour)
	stuck, err := dial(s.socket, "@1/unit/a.service/x")
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	if data, err := ask(s.socket, "@2/unit/wireguard.service/wg-key"); err != nil || string(data) != "the key" {
		t.Errorf("got %q, %v", data, err)
	}
}

func TestServeEndsWhenNobodyAsks(t *testing.T) {
	s := serve(t, time.Millisecond)
	select {
	case err := <-s.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it still waits")
	}
}
