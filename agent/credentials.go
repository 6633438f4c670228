package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/agent/credential"
	"github.com/gatewarden/gatewarden/agent/secret"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/update"
)

// credentialsIdle is how long the process of ServeCredentials waits for work before
// it leaves memory; its socket starts it again.
const credentialsIdle = 10 * time.Second

// ServeCredentials gives systemd units their sealed secrets, until none was asked for
// for a while. It is a process of its own (ADR 015): it only reads the state folder,
// and works before there is a network, and where the agent does not.
func ServeCredentials(ctx context.Context, s Settings, l *net.UnixListener, log *slog.Logger) error {
	// Before the first question is taken: on an error it waits for the next start.
	chip, err := tpm.Open(ctx, s.TPM, tpm.WithAuth(s.TPMAuth))
	if err != nil {
		return fmt.Errorf("%w\nhint: `tpm` in agent.toml names it", err)
	}
	defer chip.Close()
	files := &fsx.FS{}
	store, err := secret.New(secret.Config{
		FS: files, Dir: filepath.Join(s.State, "secrets"), TPM: chip, Log: log,
		// Of each kept release, as the helper may not know yet which one runs: the chip
		// takes the one that was signed for this boot.
		Signed: func(context.Context) (list []tpmpolicy.Signed, err error) {
			kept, err := update.Kept(files, filepath.Join(s.State, "update"))
			for _, r := range kept {
				list = append(list, secret.Signed(r)...)
			}
			return list, err
		},
	})
	if err != nil {
		return err
	}
	return credential.Serve(ctx, credential.Config{
		Listener: l, Open: store.GetFor, Idle: credentialsIdle, Log: log.With("part", "credentials"),
	})
}
