package seal_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
)

// A secret that opens across an update: the owner signs the PCR values of the next
// release, and the device needs to know nothing more.
func ExampleSeal() {
	ctx := context.Background()
	chip, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		log.Fatal(err)
	}
	defer chip.Close()
	// The owner's key, off line in reality.
	owner, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	var record counter.Record // made by root, see counter.Define
	blob, err := seal.Seal(ctx, chip, []byte("correct horse"), seal.Policy{
		Name:       "disk",
		Ref:        tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{4, 11, 12, 13}},
		Key:        owner.Public(),
		SecureBoot: true,
		Counter:    seal.Counter{Index: record.Index, Name: record.Name(), Value: record.Initial},
	})
	if err != nil {
		log.Fatal(err)
	}
	// At the owner's: the next release will measure these values.
	next, err := tpmpolicy.Approve(owner,
		tpmpolicy.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{4, 11, 12, 13}},
		map[int]tpmpolicy.Digest{4: {1}, 11: {2}, 12: {3}, 13: {}})
	if err != nil {
		log.Fatal(err)
	}
	// On the device, after the update.
	secret, err := seal.Unseal(ctx, chip, blob, []tpmpolicy.Signed{next})
	if err != nil {
		log.Fatal(err) // a *seal.Refusal says which PCR differs
	}
	log.Printf("%d bytes", len(secret))
}
