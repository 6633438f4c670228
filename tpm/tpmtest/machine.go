package tpmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Machine is one emulated machine's chip. Its state is in Dir/tpm, the authority
// that certified its EK in Dir/ca.
type Machine struct {
	Dir string // absolute
}

// Manufacture makes a chip with EK and platform certificates from a certificate
// authority of its own, as a TPM's maker would. It takes about a second. A chip
// that dir already holds is kept. more are further arguments of swtpm_setup.
func Manufacture(ctx context.Context, dir string, more ...string) (*Machine, error) {
	m, err := newMachine(dir)
	if err != nil {
		return nil, fmt.Errorf("manufacture TPM: %w", err)
	}
	done := filepath.Join(m.ca(), "manufactured") // absent if swtpm_setup was cut short
	if _, err := os.Stat(done); err == nil {
		return m, nil
	}
	if err := m.setup(ctx, more); err != nil {
		return nil, fmt.Errorf("manufacture TPM: %w", err)
	}
	if err := os.WriteFile(done, nil, 0o600); err != nil {
		return nil, fmt.Errorf("manufacture TPM: %w", err)
	}
	return m, nil
}

func newMachine(dir string) (*Machine, error) {
	dir, err := filepath.Abs(dir) // swtpm changes its working directory
	if err != nil {
		return nil, err
	}
	m := &Machine{Dir: dir}
	for _, sub := range []string{m.state(), m.ca()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Machine) state() string { return filepath.Join(m.Dir, "tpm") }
func (m *Machine) ca() string    { return filepath.Join(m.Dir, "ca") }

// setup runs swtpm_setup with configuration files of our own, so that neither the
// user's nor the system's local CA is used and several runs don't meet.
func (m *Machine) setup(ctx context.Context, more []string) error {
	setup, err := tool("swtpm_setup", "swtpm-tools")
	if err != nil {
		return err
	}
	localca, err := tool("swtpm_localca", "swtpm-tools")
	if err != nil {
		return err
	}
	if _, err := tool("certtool", "gnutls-bin"); err != nil {
		return err
	}
	config, err := m.writeConfig(localca)
	if err != nil {
		return err
	}
	args := []string{
		"--tpm2", "--tpmstate", m.state(), "--create-ek-cert", "--create-platform-cert",
		"--lock-nvram", "--pcr-banks", "sha256", "--overwrite", "--config", config,
	}
	cmd := exec.CommandContext(ctx, setup, append(args, more...)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+m.ca(), "HOME="+m.ca())
	cmd.Dir = m.ca()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run swtpm_setup: %w: %s", err, out)
	}
	return nil
}

func (m *Machine) writeConfig(localca string) (string, error) {
	path := func(name string) string { return filepath.Join(m.ca(), name) }
	files := map[string]string{
		"setup.conf": "create_certs_tool = " + localca + "\n" +
			"create_certs_tool_config = " + path("localca.conf") + "\n" +
			"create_certs_tool_options = " + path("localca.options") + "\n" +
			"active_pcr_banks = sha256\n",
		"localca.conf": "statedir = " + m.ca() + "\n" +
			"signingkey = " + path("signkey.pem") + "\n" +
			"issuercert = " + path("issuercert.pem") + "\n" +
			"certserial = " + path("certserial") + "\n",
		"localca.options": "--platform-manufacturer Gatewarden\n--platform-version 1.0\n--platform-model Demo\n",
	}
	for name, text := range files {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return path("setup.conf"), nil
}

// CACertificates is the PEM of the authority that issued the EK certificate:
// issuer, then root.
func (m *Machine) CACertificates() ([]byte, error) {
	var all []byte
	for _, name := range []string{"issuercert.pem", "swtpm-localca-rootca-cert.pem"} {
		pem, err := os.ReadFile(filepath.Join(m.ca(), name))
		if err != nil {
			return nil, fmt.Errorf("read EK authority: %w", err)
		}
		all = append(all, pem...)
	}
	return all, nil
}

// tool finds a program, or says which package brings it.
func tool(name, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is not installed: run \"apt-get install %s\": %w", name, pkg, err)
	}
	return path, err
}
