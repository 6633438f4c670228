// Package depskeep holds module requirements while the tree is being laid out.
package depskeep

import (
	_ "github.com/BurntSushi/toml"
	_ "github.com/coreos/go-systemd/v22/activation"
	_ "github.com/coreos/go-systemd/v22/daemon"
	_ "github.com/coreos/go-systemd/v22/dbus"
	_ "github.com/eclipse/paho.golang/autopaho"
	_ "github.com/google/go-attestation/attest"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/google/go-tpm-tools/server"
	_ "github.com/google/go-tpm/tpm2"
	_ "github.com/mochi-mqtt/server/v2"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/smallstep/pkcs7"
	_ "github.com/spf13/cobra"
	_ "github.com/spf13/cobra/doc"
	_ "go.etcd.io/bbolt"
	_ "go.uber.org/goleak"
	_ "golang.org/x/crypto/ssh"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "modernc.org/sqlite"
)
