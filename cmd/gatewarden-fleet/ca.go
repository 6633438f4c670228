package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/ca"
)

func caVerb(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "ca", Short: "the fleet's certificate authority", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(caInit(o), caShow(o), caRollover(o), caEncrypt(o), caPeer(o))
	return cmd
}

// rootPassphrase adds the flag of that name and returns what reads it.
func rootPassphrase(cmd *cobra.Command) func(*ca.Vault) error {
	var path string
	cmd.Flags().StringVar(&path, "root-passphrase", "", "`FILE` with the passphrase of the root's key")
	return func(v *ca.Vault) (err error) {
		if path != "" {
			v.RootPassphrase, err = fleet.ReadPassphrase(path)
		}
		return err
	}
}

func caInit(o *options) *cobra.Command {
	var dir, name, passphrase string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "make root and intermediates, on a machine off line too",
		Long: `Make the fleet's certificate authority: a root, and the intermediates that the
server issues with. On a machine off line, name the fleet and a folder:

  gatewarden-fleet ca init --fleet example --dir ca --passphrase FILE --root-passphrase FILE

and carry all of the folder but root.key to ca in the server's state folder.
Without --fleet and --dir they are those of the configuration.`,
		Args: cobra.NoArgs,
	}
	root := rootPassphrase(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		vault := &ca.Vault{Dir: dir}
		if name == "" || dir == "" {
			s, err := o.settings()
			if err != nil {
				return err
			}
			if vault, err = s.Vault(); err != nil {
				return err
			}
			name = s.Fleet
		}
		if passphrase != "" {
			var err error
			if vault.Passphrase, err = fleet.ReadPassphrase(passphrase); err != nil {
				return err
			}
		}
		if err := root(vault); err != nil {
			return err
		}
		if err := vault.Init(name, time.Now()); err != nil {
			return err
		}
		return o.done(vault.Dir, "made; keep "+filepath.Join(vault.Dir, "root.key")+" off line")
	}
	cmd.Flags().StringVar(&name, "fleet", "", "`NAME` of the fleet")
	cmd.Flags().StringVar(&dir, "dir", "", "`FOLDER` to make it in")
	cmd.Flags().StringVar(&passphrase, "passphrase", "", "`FILE` with the passphrase of the intermediates' keys; by default that of the configuration")
	cmd.MarkFlagsRequiredTogether("fleet", "dir")
	return cmd
}

// vault is that of the configuration.
func (o *options) vault() (*ca.Vault, error) {
	s, err := o.settings()
	if err != nil {
		return nil, err
	}
	return s.Vault()
}

// intermediate is a line of `ca show`.
type intermediate struct {
	Name    string    `json:"name"`
	Issues  bool      `json:"issues"`
	Subject string    `json:"subject"`
	Serial  string    `json:"serial"`
	Until   time.Time `json:"until"`
}

func caShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "list the intermediates",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			vault, err := o.vault()
			if err != nil {
				return err
			}
			c, err := vault.Open()
			if err != nil {
				return err
			}
			var list []intermediate
			for _, i := range c.Intermediates() {
				list = append(list, intermediate{i.Name, i.Current, i.Cert.Subject.CommonName, i.Cert.SerialNumber.Text(16), i.Cert.NotAfter.UTC()})
			}
			if o.json {
				return o.printJSON(list)
			}
			w := tabwriter.NewWriter(o.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "INTERMEDIATE\tSTATE\tSUBJECT\tUNTIL")
			for _, i := range list {
				state := "older"
				if i.Issues {
					state = "issues"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", i.Name, state, i.Subject, i.Until.Format(time.DateTime))
			}
			return w.Flush()
		},
	}
}

func caRollover(o *options) *cobra.Command {
	var rootKey string
	var drop bool
	cmd := &cobra.Command{
		Use:   "rollover [devices] [quarantine] [services]",
		Short: "make new intermediates with the root's key",
		Long: `Make a new generation of the named intermediates, or of all. Bring the root's key
for the moment, and take it away again. The server issues by them from its next
start on. Certificates of the older generation stay good, and move as they are
renewed: nobody is cut off.

With --drop-old the older generation counts for nothing from the next start on:
for keys that were stolen. Gateways with a certificate of it are refused, and
come back by proving their TPM.`,
		ValidArgs: []string{"devices", "quarantine", "services"},
		Args:      cobra.OnlyValidArgs,
	}
	root := rootPassphrase(cmd)
	cmd.RunE = func(_ *cobra.Command, which []string) error {
		vault, err := o.vault()
		if err != nil {
			return err
		}
		if err := root(vault); err != nil {
			return err
		}
		if rootKey == "" {
			rootKey = filepath.Join(vault.Dir, "root.key")
		}
		made, err := vault.Rollover(rootKey, drop, time.Now(), which...)
		if err != nil {
			return err
		}
		return o.done(strings.Join(made, ", "), "made; restart the server, and take the root's key away")
	}
	cmd.Flags().StringVar(&rootKey, "root-key", "", "`FILE` with the root's key; by default root.key in the CA's folder")
	cmd.Flags().BoolVar(&drop, "drop-old", false, "drop the older generations at once")
	return cmd
}

func caEncrypt(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "encrypt",
		Short: "encrypt the intermediates' keys with the configured passphrase",
		Long: `Encrypt the keys of the intermediates that lie in the clear, with the passphrase
that ca_passphrase in the configuration names (or the systemd credential
ca-passphrase). It may be interrupted and repeated. The root's key is left alone:
openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 encrypts it.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			vault, err := o.vault()
			if err != nil {
				return err
			}
			if err := vault.Encrypt(); err != nil {
				return err
			}
			return o.done(vault.Dir, "the intermediates' keys are encrypted")
		},
	}
}

func caPeer(o *options) *cobra.Command {
	var hosts []string
	var out string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "peer NAME",
		Short: "make key and certificate of a broker beside the server",
		Long: `Make key and certificate of a service that gateways meet beside the server, as a
broker (docs/ca.md), and write them with the root's certificate:

  gatewarden-fleet ca peer broker --host broker.example.org --out DIR`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := o.settings()
			if err != nil {
				return err
			}
			if err := fleet.IssuePeer(cmd.Context(), s, args[0], hosts, life, out, time.Now()); err != nil {
				return err
			}
			return o.done(filepath.Join(out, args[0]+".pem"), "made")
		},
	}
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` name or address that gateways reach it by; may be repeated")
	cmd.Flags().StringVar(&out, "out", ".", "`FOLDER` to write to")
	cmd.Flags().DurationVar(&life, "life", 90*24*time.Hour, "how long it is good")
	_ = cmd.MarkFlagRequired("host") // the flag exists: it was made above
	return cmd
}
