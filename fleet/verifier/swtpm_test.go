package verifier

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// chip is a swtpm of this test's own. The fleet's code may not link the device's
// TPM package, so its tests speak to the emulator themselves.
type chip struct {
	transport.TPM
	dir string // state, and the authority of the EK certificates if manufactured
}

func startChip(t *testing.T, manufactured bool) *chip {
	t.Helper()
	swtpm, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("swtpm is not installed: nothing was proven against a TPM")
	}
	dir, err := os.MkdirTemp("", "gw") // a Unix socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if manufactured {
		manufacture(t, dir)
	}
	socket := filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, swtpm, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "c"), "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	conn := dial(t, socket)
	t.Cleanup(func() { conn.Close() })
	return &chip{transport.FromReadWriter(conn), dir}
}

func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func manufacture(t *testing.T, dir string) {
	t.Helper()
	setup, err := exec.LookPath("swtpm_setup")
	localca, err2 := exec.LookPath("swtpm_localca")
	if err := errors.Join(err, err2); err != nil {
		t.Skipf("no EK certificate could be made: %v", err)
	}
	config := filepath.Join(dir, "setup.conf")
	for name, text := range map[string]string{
		config: "create_certs_tool = " + localca + "\ncreate_certs_tool_config = " + dir + "/ca.conf\ncreate_certs_tool_options = /dev/null\nactive_pcr_banks = sha256\n",
		filepath.Join(dir, "ca.conf"): "statedir = " + dir + "\nsigningkey = " + dir + "/signkey.pem\nissuercert = " + dir +
			"/issuer.pem\ncertserial = " + dir + "/serial\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), setup, "--tpm2", "--tpmstate", dir, "--create-ek-cert", "--pcr-banks", "sha256", "--config", config)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "HOME="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
}

// object is a loaded key.
type object struct {
	tpm2.NamedHandle
	public []byte // TPMT_PUBLIC
}

func (c *chip) primary(t *testing.T, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) object {
	t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	return object{tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, tpm2.Marshal(public)}
}

func (c *chip) flush(t *testing.T, o object) {
	t.Helper()
	if _, err := (tpm2.FlushContext{FlushHandle: o.Handle}).Execute(c); err != nil {
		t.Error(err)
	}
}

// ek makes an EK as its profile prescribes: high-range templates have an empty
// unique field.
func (c *chip) ek(t *testing.T, template tpm2.TPMTPublic) object {
	t.Helper()
	if template.ObjectAttributes.UserWithAuth && template.Type == tpm2.TPMAlgRSA {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	} else if template.ObjectAttributes.UserWithAuth {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	}
	return c.primary(t, tpm2.TPMRHEndorsement, template)
}

func signingTemplate(restricted bool) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: restricted, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// activate recovers a credential with the EK and the key named ak.
func (c *chip) activate(t *testing.T, ek, ak object, blob, encrypted []byte) ([]byte, error) {
	t.Helper()
	session, closeSession, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closeSession() }() // gone already if the command used it
	auth := session
	if p, _ := parsePublic(ek.public); p != nil && p.ObjectAttributes.UserWithAuth {
		auth = tpm2.PasswordAuth(nil)
	} else {
		_, err = tpm2.PolicySecret{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Name: tpm2.HandleName(tpm2.TPMRHEndorsement), Auth: tpm2.PasswordAuth(nil)},
			NonceTPM:   session.NonceTPM(), PolicySession: session.Handle(),
		}.Execute(c)
		if err != nil {
			t.Fatal(err)
		}
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: ak.Handle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: ek.Handle, Name: ek.Name, Auth: auth},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
	}.Execute(c)
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

func (c *chip) certify(t *testing.T, ak, key object, qualifying []byte) (info, signature []byte) {
	t.Helper()
	rsp, err := tpm2.Certify{
		ObjectHandle:   tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
		SignHandle:     tpm2.AuthHandle{Handle: ak.Handle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	return rsp.CertifyInfo.Bytes(), tpm2.Marshal(rsp.Signature)
}

// readNV reads an index of the manufacturer's.
func (c *chip) readNV(t *testing.T, index tpm2.TPMHandle) []byte {
	t.Helper()
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	contents, err := public.NVPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	for len(data) < int(contents.DataSize) {
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       min(contents.DataSize-uint16(len(data)), 512), Offset: uint16(len(data)),
		}.Execute(c)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data
}
