package tpmtest

import (
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
)

// bridgeTo names the environment variable that makes a test program connect its
// standard input and output to a socket: tpm2-tools reach any chip through a command.
const bridgeTo = "GATEWARDEN_TEST_BRIDGE"

// Main is the TestMain of packages whose tests use Tool.
func Main(m *testing.M) {
	socket := os.Getenv(bridgeTo)
	if socket == "" {
		os.Exit(m.Run())
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		os.Exit(1)
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		os.Exit(0)
	}()
	_, _ = io.Copy(os.Stdout, conn)
}

// Tool prepares a program of tpm2-tools, or openssl with its provider for TPMs, to
// run in a folder on the chip at a socket. Without the program the test is skipped,
// but fails in CI.
func Tool(tb testing.TB, socket, folder, name string, args ...string) *exec.Cmd {
	tb.Helper()
	require(tb, name)
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), name, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), bridgeTo+"="+socket, "TPM2TOOLS_TCTI=cmd:"+self, "TPM2OPENSSL_TCTI=cmd:"+self)
	return cmd
}
