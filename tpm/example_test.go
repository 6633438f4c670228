package tpm_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// emulator starts a chip for an example; on a device the path is "/dev/tpmrm0".
func emulator(ctx context.Context) (path string, off func()) {
	dir, err := os.MkdirTemp("", "gw")
	check(err)
	check(os.Mkdir(filepath.Join(dir, "tpm"), 0o700))
	power, err := (&tpmtest.Machine{Dir: dir}).PowerOn(ctx)
	check(err)
	return "unix:" + power.Socket, func() {
		check(power.Off())
		check(os.RemoveAll(dir))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Example enrols a device: it makes its keys, and proves to its fleet that they are
// in a genuine chip. What the fleet does is marked.
func Example() {
	ctx := context.Background()
	path, off := emulator(ctx)
	defer off()
	chip, err := tpm.Open(ctx, path)
	check(err)
	defer chip.Close()

	// The maker's key, and two of our own. The files are useless without this chip.
	ek, err := chip.EK(ctx, "ecc-p256")
	check(err)
	ak, err := chip.CreateKey(ctx, tpm.AK)
	check(err)
	key, err := chip.CreateKey(ctx, tpm.Operational)
	check(err)
	file, _ := pem.Decode(key.PEM())
	fmt.Println(file.Type)

	// The fleet: encrypts a ticket to the EK, for the Name of the AK.
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public)
	check(err)
	encapsulation, err := tpm2.ImportEncapsulationKey(public)
	check(err)
	blob, secret, err := tpm2.CreateCredential(rand.Reader, encapsulation, ak.Name(), []byte("the ticket"))
	check(err)

	// The device: only a chip that holds both gets it back ...
	ticket, err := chip.Activate(ctx, ek, ak, blob, secret)
	check(err)
	fmt.Printf("activated: %s\n", ticket)
	// ... and its AK states that the operational key is beside it.
	nonce := sha256.Sum256([]byte("from the fleet"))
	statement, signature, err := chip.Certify(ctx, ak, key, nonce[:])
	check(err)

	// The fleet: believes the AK, and so what it states.
	certified, err := tpm2.Unmarshal[tpm2.TPMSAttest](statement)
	check(err)
	info, err := certified.Attested.Certify()
	check(err)
	fmt.Printf("certified: %t, signed by the AK: %t\n", string(info.Name.Buffer) == string(key.Name()), signed(ak, statement, signature))
	// Output:
	// TSS2 PRIVATE KEY
	// activated: the ticket
	// certified: true, signed by the AK: true
}

// signed verifies a statement of the AK, as a fleet does with the public key alone.
func signed(ak *tpm.Key, statement, signature []byte) bool {
	parsed, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	check(err)
	ecc, err := parsed.Signature.ECDSA()
	check(err)
	digest := sha256.Sum256(statement)
	return ecdsa.Verify(ak.Public().(*ecdsa.PublicKey), digest[:],
		new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer))
}

// An attestation is one quote: the chip signs what it recorded of the boot, with the
// fleet's nonce. The values that it is about travel beside it.
func ExampleTPM_Quote() {
	ctx := context.Background()
	path, off := emulator(ctx)
	defer off()
	chip, err := tpm.Open(ctx, path)
	check(err)
	defer chip.Close()
	ak, err := chip.CreateKey(ctx, tpm.AK)
	check(err)

	kernel := sha256.Sum256([]byte("a kernel"))
	check(chip.Extend(ctx, 11, kernel)) // the boot loader does this
	nonce := sha256.Sum256([]byte("from the fleet"))
	quote, signature, err := chip.Quote(ctx, ak, nonce[:], []int{7, 11})
	check(err)
	values, err := chip.ReadPCRs(ctx, []int{7, 11})
	check(err)

	// The fleet: the quote is of these values, and they are those of that kernel.
	attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](quote)
	check(err)
	info, err := attest.Attested.Quote()
	check(err)
	pcr7, pcr11 := values[7], values[11]
	of := sha256.Sum256(append(pcr7[:], pcr11[:]...))
	fmt.Println("signed by the AK:", signed(ak, quote, signature))
	fmt.Println("of these values:", string(info.PCRDigest.Buffer) == string(of[:]))
	fmt.Println("of that kernel:", pcr11 == sha256.Sum256(append(make([]byte, 32), kernel[:]...)))
	// Output:
	// signed by the AK: true
	// of these values: true
	// of that kernel: true
}
