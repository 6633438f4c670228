package tpm_test

import (
	"context"
	"crypto/sha256"
	"log"
	"os"

	"github.com/gatewarden/gatewarden/tpm"
)

// At its first start a device makes its keys, and shows with a Certify statement
// that the second is in the same chip as the first.
func ExampleTPM_CreateKey() {
	ctx := context.Background()
	chip, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		log.Fatal(err)
	}
	defer chip.Close()
	ak, err := chip.CreateKey(ctx, tpm.AK)
	if err != nil {
		log.Fatal(err)
	}
	key, err := chip.CreateKey(ctx, tpm.Operational)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("ak.pem", ak.PEM(), 0o600); err != nil {
		log.Fatal(err)
	}
	nonce := sha256.Sum256([]byte("from the fleet"))
	statement, signature, err := chip.Certify(ctx, ak, key, nonce[:])
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("send %d and %d bytes", len(statement), len(signature))
}

// An attestation is one quote, and the values that it is about.
func ExampleTPM_Quote() {
	ctx := context.Background()
	chip, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		log.Fatal(err)
	}
	defer chip.Close()
	file, err := os.ReadFile("ak.pem")
	if err != nil {
		log.Fatal(err)
	}
	ak, err := chip.LoadKey(ctx, file)
	if err != nil {
		log.Fatal(err)
	}
	nonce := sha256.Sum256([]byte("from the fleet"))
	quote, signature, err := chip.Quote(ctx, ak, nonce[:], []int{0, 4, 7, 11})
	if err != nil {
		log.Fatal(err)
	}
	values, err := chip.ReadPCRs(ctx, []int{0, 4, 7, 11})
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("send %d and %d bytes and %d values", len(quote), len(signature), len(values))
}
