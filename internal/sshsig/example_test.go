package sshsig_test

import (
	"crypto/ed25519"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/sshsig"
	"github.com/gatewarden/gatewarden/internal/sshsig/sshsigtest"
)

func ExampleVerify() {
	operator := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) // a fixed key, for the example only
	message := []byte(`{"verb":"ping"}`)
	signature, err := sshsigtest.Sign(operator, message, "gatewarden-command")
	if err != nil {
		fmt.Println(err)
		return
	}
	key, err := sshsig.Verify(signature, message, "gatewarden-command")
	fmt.Println(key.Type(), err)
	_, err = sshsig.Verify(signature, message, "gatewarden-policy")
	fmt.Println(err)
	// Output:
	// ssh-ed25519 <nil>
	// signature is for namespace "gatewarden-command", not "gatewarden-policy"
}
