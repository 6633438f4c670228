package seal_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/counter"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// bootOf is what a machine measures that boots a release.
func bootOf(release string) (measured []tpmtest.Measurement) {
	for _, pcr := range []int{4, 7, 11, 12} {
		name := release
		if pcr == 7 {
			name = "Secure Boot on"
		}
		measured = append(measured, tpmtest.Measurement{PCR: pcr, Digest: sha256.Sum256([]byte(name))})
	}
	return measured
}

// expect computes what that boot leaves in the PCRs, as the owner's build does.
func expect(release string, pcrs []int) map[int]seal.Digest {
	values := make(map[int]seal.Digest)
	for _, pcr := range pcrs {
		values[pcr] = seal.Digest{}
	}
	for _, m := range bootOf(release) {
		if _, sealed := values[m.PCR]; sealed {
			values[m.PCR] = sha256.Sum256(append(make([]byte, 32), m.Digest[:]...))
		}
	}
	return values
}

// A secret that opens across an update: the owner signs what the next release will
// measure, and the device needs to know nothing more.
func ExampleSeal() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "gw")
	check(err)
	defer os.RemoveAll(dir)
	check(os.Mkdir(filepath.Join(dir, "tpm"), 0o700))
	machine := &tpmtest.Machine{Dir: dir}

	// boot does something on the machine when it has booted a release.
	boot := func(release string, work func(chip *tpm.TPM)) {
		power, err := machine.PowerOn(ctx)
		check(err)
		check(power.Boot(ctx, bootOf(release)))
		chip, err := tpm.Open(ctx, "unix:"+power.Socket)
		check(err)
		work(chip)
		check(chip.Close())
		check(power.Off())
	}

	// The owner's key, off line in reality; root's key of the counter.
	owner, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	ref := seal.Ref{Product: "edge", Channel: "stable", Epoch: 1, PCRs: []int{4, 11, 12, 13}}

	var file []byte
	boot("release 1", func(chip *tpm.TPM) {
		var epoch counter.Record
		check(chip.Do(ctx, "make counter", func(c *tpm.Chip) (err error) {
			epoch, err = counter.Define(c, root, counter.Index, nil)
			return err
		}))
		file, err = seal.Seal(ctx, chip, []byte("correct horse"), seal.Policy{
			Name: "disk", Ref: ref, Key: owner.Public(), SecureBoot: true,
			Counter: seal.Counter{Index: epoch.Index, Name: epoch.Name(), Value: epoch.Initial},
		})
		check(err)
	})

	// At the owner's: release 2 is built, and its measurements signed.
	approved, err := seal.Approve(owner, ref, expect("release 2", ref.PCRs))
	check(err)

	for _, release := range []string{"release 2", "another system"} {
		boot(release, func(chip *tpm.TPM) {
			secret, err := seal.Unseal(ctx, chip, file, []seal.Signed{approved})
			var refusal *seal.Refusal
			if errors.As(err, &refusal) {
				fmt.Printf("%s: refused, PCRs %v differ\n", release, refusal.PCRs)
				return
			}
			check(err)
			fmt.Printf("%s: %s\n", release, secret)
		})
	}
	// Output:
	// release 2: correct horse
	// another system: refused, PCRs [4 11 12] differ
}
