package release_test

import (
	"fmt"

	"github.com/gatewarden/gatewarden/update/release"
)

func ExampleRelease_Applies() {
	r := release.Release{Product: "edge", Channel: "stable", Version: "2.1.0", Epoch: 2, Hardware: []string{"Acme G1"}}
	gateway := release.Device{Product: "edge", Channel: "stable", Hardware: "Acme G1", Version: "2.2.0", Epoch: 2}
	fmt.Println(r.Applies(gateway))
	gateway.Version = "2.0.9"
	fmt.Println(r.Applies(gateway))
	// Output:
	// release refused (version): version 2.1.0 is below the running 2.2.0
	// <nil>
}
