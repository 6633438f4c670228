package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/agent/local"
	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/p256key"
	"github.com/gatewarden/gatewarden/internal/softkey"
	"github.com/gatewarden/gatewarden/tpm/core"
)

// TestHelperKnowsAGatewayWithoutTPMByWhatRootPutThere, and by nothing else: not by a
// file that others could write, nor while there is anything like a TPM.
func TestHelperKnowsAGatewayWithoutTPMByWhatRootPutThere(t *testing.T) {
	dir := t.TempDir()
	c := &helper.Config{FS: &fsx.FS{}, Log: rig.Quiet(), Trust: filepath.Join(dir, "trust"), State: filepath.Join(dir, "state")}
	chip, path := "unix:"+filepath.Join(dir, "tpm"), filepath.Join(c.Trust, firstKeyFile)
	key, _, err := p256key.New()
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	good := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what, want string) {
		t.Helper()
		if name, err := deviceName(t.Context(), c, chip, core.Auth{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: name %x, error %v, want %q", what, name, err, want)
		}
	}
	must(os.Mkdir(c.Trust, 0o755))
	refused("no file", "no "+path+" says which device this is")
	if countsEpochs(c, chip) {
		t.Error("an epoch counter is looked for where there is no TPM")
	}
	must(os.WriteFile(path, good, 0o644))
	if name, err := deviceName(t.Context(), c, chip, core.Auth{}); err != nil || !bytes.Equal(name, softkey.Name(public)) {
		t.Errorf("name %x, %v", name, err)
	}
	must(os.Chmod(path, 0o666))
	refused("writable", "may be written by others")
	for what, content := range map[string][]byte{"empty": nil, "cut": good[:60], "of another kind": bytes.ReplaceAll(good, []byte("PUBLIC"), []byte("PRIVATE"))} {
		must(os.WriteFile(path, content, 0o644), os.Chmod(path, 0o644))
		refused(what, "read first key: ")
	}
	must(os.Remove(path), os.WriteFile(path+".x", good, 0o644), os.Symlink(path+".x", path))
	refused("a link", "neither folder nor regular file")
	must(os.Remove(path), os.Rename(path+".x", path))
	l, err := net.Listen("unix", filepath.Join(dir, "tpm"))
	must(err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	must(l.Close())
	refused("a TPM that does not answer", "open TPM")
	if !countsEpochs(c, chip) {
		t.Error("the counter of a TPM that does not answer is not missed")
	}
	must(os.Remove(filepath.Join(dir, "tpm")), os.Mkdir(c.State, 0o700), os.WriteFile(filepath.Join(c.State, counterName), nil, 0o600))
	if !countsEpochs(c, chip) {
		t.Error("the counter of a TPM that is gone is not missed")
	}
}

// TestSoftwareKeysAreShown by status and cert show; with a TPM neither speaks of them.
func TestSoftwareKeysAreShown(t *testing.T) {
	for _, software := range []bool{true, false} {
		var out bytes.Buffer
		s := local.Status{SoftwareKeys: software, Certificate: &local.Certificate{SPKI: "ab"}}
		printStatus(&out, s)
		o := &options{stdout: &out}
		if err := o.printCertificate(s); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "software keys"); (n == 2) != software || strings.Contains(out.String(), "in the TPM") == software {
			t.Errorf("software keys %t: %s", software, &out)
		}
	}
}
