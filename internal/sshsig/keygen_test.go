package sshsig

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// keygen runs the real ssh-keygen. CI must have it.
func keygen(t testing.TB, stdin []byte, args ...string) ([]byte, error) {
	t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("ssh-keygen is missing; install openssh-client")
		}
		t.Skip("ssh-keygen is missing; install openssh-client")
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(string(stdin))
	return cmd.CombinedOutput()
}

// newKey makes a key pair and returns the private key's file and the public line.
func newKey(t testing.TB, args ...string) (file, line string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	if out, err := keygen(t, nil, append([]string{"-q", "-N", "", "-C", "op@example.org", "-f", file}, args...)...); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	public, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(public))
}

func keygenSign(t testing.TB, file, namespace string, message []byte, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(path, message, 0o600); err != nil {
		t.Fatal(err)
	}
	all := append([]string{"-q", "-Y", "sign", "-f", file, "-n", namespace}, append(args, path)...)
	if out, err := keygen(t, nil, all...); err != nil {
		t.Fatalf("ssh-keygen -Y sign: %v: %s", err, out)
	}
	armored, err := os.ReadFile(path + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	return armored
}

// keygenVerify asks ssh-keygen whether key signed message.
func keygenVerify(t testing.TB, key Key, namespace string, message, armored []byte) error {
	t.Helper()
	dir := t.TempDir()
	allowed, sig := filepath.Join(dir, "allowed"), filepath.Join(dir, "sig")
	if err := os.WriteFile(allowed, []byte("op@example.org "+key.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sig, armored, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := keygen(t, message, "-Y", "verify", "-f", allowed, "-I", "op@example.org", "-n", namespace, "-s", sig)
	if err != nil {
		t.Logf("ssh-keygen says: %s", out)
	}
	return err
}
