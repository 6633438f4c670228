package tpm_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// hung is how long a test waits before it says that something hangs: a loaded machine
// takes its time for what costs milliseconds elsewhere.
const hung = 2 * time.Minute

// connect opens a chip through a transport that counts and can fail.
func connect(t *testing.T, p *tpmtest.Power) (*tpm.TPM, *tpmtest.Faults) {
	t.Helper()
	faults := tpmtest.NewFaults(dial(t, p))
	chip := tpm.New(faults)
	t.Cleanup(func() { _ = chip.Close() })
	return chip, faults
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// makeCredential is the fleet's side of activation.
func makeCredential(t testing.TB, ek *tpm.EK, name, credential []byte) (blob, secret []byte) {
	t.Helper()
	public := must(tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public))(t)
	key := must(tpm2.ImportEncapsulationKey(public))(t)
	blob, secret, err := tpm2.CreateCredential(rand.Reader, key, name, credential)
	if err != nil {
		t.Fatal(err)
	}
	return blob, secret
}

func pcrs() []int { return []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14} }

func verify(t testing.TB, k *tpm.Key, statement, sig []byte) {
	t.Helper()
	parsed := must(tpm2.Unmarshal[tpm2.TPMTSignature](sig))(t)
	ecc := must(parsed.Signature.ECDSA())(t)
	digest := sha256.Sum256(statement)
	if !ecdsa.Verify(k.Public().(*ecdsa.PublicKey), digest[:], new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)) {
		t.Fatal("signature does not verify")
	}
}

// dial opens a connection for raw commands.
func dial(t testing.TB, p *tpmtest.Power) transport.TPMCloser {
	t.Helper()
	conn, err := net.Dial("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return transport.FromReadWriteCloser(conn)
}

// noHandles waits until at most so many handles are in the chip: a closed
// connection is swept a moment later.
func noHandles(t *testing.T, p *tpmtest.Power, most int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hung)
	defer cancel()
	for {
		handles := must(p.Handles())(t)
		if len(handles) <= most {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("handles left: %x", handles)
		}
		time.Sleep(time.Millisecond)
	}
}

// persist makes a primary key and puts it at a persistent handle.
func persist(t *testing.T, raw transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, at tpm2.TPMHandle) (name []byte) {
	t.Helper()
	primary := must(tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(raw))(t)
	must(tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name},
		PersistentHandle: at,
	}.Execute(raw))(t)
	must(tpm2.FlushContext{FlushHandle: primary.ObjectHandle}.Execute(raw))(t)
	return primary.Name.Buffer
}

// setAuth sets the password of a hierarchy that has none.
func setAuth(t *testing.T, raw transport.TPM, hierarchy tpm2.TPMHandle, secret string) {
	t.Helper()
	must(tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte(secret)},
	}.Execute(raw))(t)
}

// evict removes a persistent object.
func evict(t *testing.T, raw transport.TPM, auth, object, at tpm2.TPMHandle) {
	t.Helper()
	public := must(tpm2.ReadPublic{ObjectHandle: object}.Execute(raw))(t)
	must(tpm2.EvictControl{
		Auth: auth, ObjectHandle: &tpm2.NamedHandle{Handle: object, Name: public.Name}, PersistentHandle: at,
	}.Execute(raw))(t)
}

func hexBytes(s string) ([]byte, error) { return hex.DecodeString(s) }

func containsText(b []byte, text string) bool { return strings.Contains(string(b), text) }
