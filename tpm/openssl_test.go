package tpm_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// providerConfig loads the provider for keys only: its hashes need more room in the
// chip than a resource manager gives.
const providerConfig = `openssl_conf = init
[init]
providers = providers
alg_section = properties
[providers]
tpm2 = active
default = active
[active]
activate = 1
[properties]
default_properties = ?provider=tpm2,tpm2.digest!=yes,tpm2.cipher!=yes,tpm2.rand!=yes
`

// provider runs openssl with the tpm2 provider on a chip.
type provider struct {
	dir    string
	socket string
}

func newProvider(t *testing.T, power *tpmtest.Power) *provider {
	t.Helper()
	modules := must(exec.Command("openssl", "version", "-m").Output())(t)
	_, folder, _ := strings.Cut(string(modules), `"`)
	folder, _, _ = strings.Cut(folder, `"`)
	if _, err := os.Stat(filepath.Join(folder, "tpm2.so")); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("tpm2-openssl is not installed")
		}
		t.Skip("tpm2-openssl is not installed: run \"make setup\"")
	}
	return &provider{t.TempDir(), power.Socket}
}

func (p *provider) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := tpmtest.Tool(t, p.socket, p.dir, "openssl", args...)
	cmd.Env = append(cmd.Env, "OPENSSL_CONF="+write(t, p.dir, "openssl.cnf", []byte(providerConfig)))
	return cmd
}

// TestOpenSSLSignsWithOurKeyFile: its provider for TPM 2.0 loads what CreateKey wrote,
// under the owner's primary and under the persistent storage key.
func TestOpenSSLSignsWithOurKeyFile(t *testing.T) {
	t.Parallel()
	for _, parent := range []string{"40000001", "81000001"} {
		t.Run(parent, func(t *testing.T) {
			_, power := tpmtest.Start(t)
			if parent == "81000001" {
				persist(t, dial(t, power), tpm2.TPMRHOwner, tpm2.ECCSRKTemplate, 0x81000001)
			}
			chip, _ := connect(t, power)
			key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
			if got := parentOf(t, key.PEM()); got != parent {
				t.Fatalf("parent %s", got)
			}
			p := newProvider(t, power)
			write(t, p.dir, "key.pem", key.PEM())
			write(t, p.dir, "message", []byte("message"))
			out, err := p.command(t, "pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-digest", "sha256",
				"-in", "message", "-out", "signature").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			digest := sha256.Sum256([]byte("message"))
			if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], must(os.ReadFile(filepath.Join(p.dir, "signature")))(t)) {
				t.Fatal("signature does not verify")
			}
		})
	}
}

// TestOpenSSLServesTLSWithOurKeyFile to a client of Go.
func TestOpenSSLServesTLSWithOurKeyFile(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.Start(t)
	chip, _ := connect(t, power)
	key := must(chip.CreateKey(t.Context(), tpm.Operational))(t)
	p := newProvider(t, power)
	der := certificate(t, key.Public(), key)
	write(t, p.dir, "key.pem", key.PEM())
	write(t, p.dir, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	server := p.command(t, "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-tls1_3", "-www",
		"-key", "key.pem", "-cert", "cert.pem")
	out := must(server.StdoutPipe())(t)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Wait() }) // it ends with the test's context
	address := ""
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		if at, found := strings.CutPrefix(lines.Text(), "ACCEPT "); found {
			address = at
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(must(x509.ParseCertificate(der))(t))
	conn := must(tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: "fleet", MinVersion: tls.VersionTLS13}))(t)
	defer conn.Close()
	if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if line := must(bufio.NewReader(conn).ReadString('\n'))(t); !strings.HasPrefix(line, "HTTP/1.0 200") {
		t.Fatalf("server says %q", line)
	}
}
