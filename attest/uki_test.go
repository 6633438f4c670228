package attest_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/testdata/boot"
)

const ukiCommandLine = "root=PARTLABEL=slot-a ro quiet"

func TestUKIIsReadAsItWillBeMeasured(t *testing.T) {
	uki := boot.UKI("kernel 1", "VERSION_ID=1", ukiCommandLine)
	b, err := attest.ReadUKI(uki, boot.PE(boot.Section{Name: ".text", Data: []byte("loader")}))
	if err != nil {
		t.Fatal(err)
	}
	if b.CommandLine != ukiCommandLine || b.Loader.IsZero() || b.UKI.IsZero() || b.Kernel.IsZero() {
		t.Fatalf("read %+v", b)
	}
	var names []string
	for _, s := range b.Sections {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != ".linux .osrel .cmdline .uname" {
		t.Errorf("sections in the order %s", got)
	}
	other, err := attest.ReadUKI(boot.UKI("kernel 2", "VERSION_ID=1", ukiCommandLine), nil)
	if err != nil {
		t.Fatal(err)
	}
	if other.Kernel == b.Kernel || other.UKI == b.UKI || !other.Loader.IsZero() {
		t.Error("another kernel measures the same")
	}
	if other.PCRs(nil)[12] == b.PCRs(nil)[12] || b.PCRs([]string{"sysinit"})[11] == b.PCRs(nil)[11] {
		t.Error("loader or boot phase makes no difference to the prediction")
	}
}

// systemd-stub 252 has a section .sbat, and does not measure it.
func TestSectionThatTheStubDoesNotKnowIsNotMeasured(t *testing.T) {
	for names, want := range map[string]string{
		".linux\x00.osrel\x00":          ".linux .osrel",
		".linux\x00.osrel\x00.sbat\x00": ".linux .osrel .sbat",
	} {
		b, err := attest.ReadUKI(boot.PE(
			boot.Section{Name: ".data", Data: []byte(names)}, boot.Section{Name: ".sbat", Data: []byte("sbat,1")},
			boot.Section{Name: ".sdmagic", Data: []byte("#### LoaderInfo: systemd-stub 252 ####")},
			boot.Section{Name: ".osrel", Data: []byte("ID=x")},
			boot.Section{Name: ".linux", Data: boot.PE(boot.Section{Name: ".text", Data: []byte("kernel")})},
		), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range b.Sections {
			got = append(got, s.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("a stub that knows %q measures %q, want %q", names, got, want)
		}
	}
}

// The image hash leaves out what signing changes, and nothing else.
func TestAuthenticodeIsThatOfOsslsigncode(t *testing.T) {
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		t.Skip("osslsigncode is not installed: nothing to compare with")
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	plain := boot.UKI("kernel", "VERSION_ID=1", ukiCommandLine)
	if err := os.WriteFile(path("plain.efi"), plain, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil && args[0] != "verify" { // nobody trusts the signer
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", path("key.pem"), "-out", path("cert.pem"))
	run(tool, "sign", "-h", "sha256", "-certs", path("cert.pem"), "-key", path("key.pem"), "-in", path("plain.efi"), "-out", path("signed.efi"))
	signed, err := os.ReadFile(path("signed.efi"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := attest.Authenticode(plain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := attest.Authenticode(signed)
	if err != nil || got != want || bytes.Equal(plain, signed) {
		t.Fatalf("signing changed the hash from %s to %s (%v)", want, got, err)
	}
	if report := run(tool, "verify", path("signed.efi")); !strings.Contains(strings.ToLower(report), want.String()) {
		t.Errorf("osslsigncode does not name %s:\n%s", want, report)
	}
}

func TestMalformedPEIsRefused(t *testing.T) {
	uki := boot.UKI("kernel", "VERSION_ID=1", ukiCommandLine)
	for n := 0; n < len(uki); n += 7 {
		if _, err := attest.ReadUKI(uki[:n], nil); err == nil && n < len(uki)-600 {
			t.Fatalf("cut at %d of %d bytes, it was read", n, len(uki))
		}
	}
	if _, err := attest.ReadUKI(boot.PE(boot.Section{Name: ".text", Data: []byte("x")}), nil); err == nil {
		t.Error("a file without kernel was read as a UKI")
	}
}

func FuzzAuthenticode(f *testing.F) {
	f.Add(boot.UKI("kernel", "VERSION_ID=1", ukiCommandLine))
	f.Fuzz(func(t *testing.T, file []byte) {
		digest, err := attest.Authenticode(file)
		if err == nil && digest.IsZero() {
			t.Error("a hash of nothing")
		}
		_, _ = attest.ReadUKI(file, nil) // must not panic
	})
}

// TestReferenceValuesTellTheBootThatTheyWereMadeOf, but for paths, which no PCR that
// is predicted holds.
func TestReferenceValuesTellTheBootThatTheyWereMadeOf(t *testing.T) {
	loader := boot.PE(boot.Section{Name: ".text", Data: []byte("loader")})
	for name, with := range map[string][]byte{"by systemd-boot": loader, "by the firmware": nil} {
		want, err := attest.ReadUKI(boot.UKI("kernel", "VERSION=1", "console=ttyS0"), with)
		if err != nil {
			t.Fatal(err)
		}
		r := want.Release("edge", "1.0.0")
		got, ok := r.Boot()
		for _, secure := range []bool{true, false} {
			got.SecureBoot, want.SecureBoot = secure, secure
			if !ok || !maps.Equal(got.PCRs([]string{"sysinit"}), want.PCRs([]string{"sysinit"})) {
				t.Errorf("started %s, Secure Boot %t: %+v, want %+v", name, secure, got, want)
			}
		}
		for what, change := range map[string]func(*attest.Release){
			"two command lines": func(r *attest.Release) { r.CommandLines = append(r.CommandLines, "x") },
			"one application":   func(r *attest.Release) { r.BootApplications = r.BootApplications[:1] },
			"a section unknown": func(r *attest.Release) { r.UKISections[".other"] = attest.Digest{1} },
		} {
			r := want.Release("edge", "1.0.0")
			change(&r)
			if _, ok := r.Boot(); ok {
				t.Errorf("%s: told", what)
			}
		}
	}
}
