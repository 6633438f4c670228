package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/fleet"
	"github.com/gatewarden/gatewarden/fleet/release"
	"github.com/gatewarden/gatewarden/internal/fsx"
)

const releaseHelp = `Author the repository that gateways update from.

  gatewarden-fleet release init --dir repo --product edge
  gatewarden-fleet release build --dir repo --product edge --channel stable \
      --version 1.4.0 --epoch 1 --hardware "Acme G1" \
      --rootfs root.img --uki gw.efi --loader systemd-bootx64.efi --confirm disk=60
  gatewarden-fleet release policy --dir repo --fleet lab
  gatewarden-fleet release sign --dir repo
  gatewarden-fleet release publish --dir repo --to /var/lib/gatewarden-fleet/tuf

Steps may run on different machines over a copy of the folder. The keys of root and
targets are for a place off line: name them with --keys when a step needs them.
Every step may be done again. docs/updates.md tells the whole story.`

// authoring is what all verbs of release share.
type authoring struct {
	*options
	dir  string
	keys []string
}

func releaseVerb(o *options) *cobra.Command {
	a := &authoring{options: o}
	cmd := &cobra.Command{Use: "release", Short: "make, sign and publish releases", Long: releaseHelp, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.PersistentFlags().StringVar(&a.dir, "dir", "", "the author's `FOLDER`")
	cmd.PersistentFlags().StringArrayVar(&a.keys, "keys", nil, "`FOLDER` with private keys, may be repeated; new keys go into the first (default: keys in the author's folder)")
	_ = cmd.MarkPersistentFlagRequired("dir") // the flag exists: it was made above
	cmd.AddCommand(releaseInit(a), releaseKeys(a), releaseBuild(a), releasePCRSignature(a), releasePolicy(a), releaseSign(a), releasePublish(a), releaseList(a), releaseWithdraw(a))
	return cmd
}

func (a *authoring) repo() release.Config {
	return release.Config{FS: &fsx.FS{}, Dir: a.dir, Keys: a.keys, Now: time.Now}
}

// say prints v as JSON if that was asked for, else what text writes.
func (a *authoring) say(v any, text func(w io.Writer)) error {
	if a.json {
		return a.printJSON(v)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	text(w)
	return w.Flush()
}

func releaseInit(a *authoring) *cobra.Command {
	opts := release.DefaultInit()
	cmd := &cobra.Command{
		Use:   "init",
		Short: "make a repository and its keys",
		Example: `  gatewarden-fleet release init --dir repo --product edge
  gatewarden-fleet release init --dir repo --product edge --product kiosk --root-keys 5 --threshold 3`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r, err := release.Init(a.repo(), opts)
			if err != nil {
				return err
			}
			keys, err := r.Keys()
			if err != nil {
				return err
			}
			return a.say(keys, func(w io.Writer) {
				printKeys(w, keys)
				fmt.Fprintf(w, "\nnext:\n  1. move the keys of root and targets to safe places off line, and those of root apart\n"+
					"  2. install %s/metadata/1.root.json as trust/root.json on each gateway\n  3. gatewarden-fleet release build\n", a.dir)
			})
		},
	}
	cmd.Flags().StringArrayVar(&opts.Products, "product", nil, "a `PRODUCT`, may be repeated; each gets a PCR-policy key")
	cmd.Flags().IntVar(&opts.RootKeys, "root-keys", opts.RootKeys, "`NUMBER` of root keys")
	cmd.Flags().IntVar(&opts.Threshold, "threshold", opts.Threshold, "`NUMBER` of root keys that must sign")
	cmd.Flags().IntVar(&opts.Lives.Timestamp, "timestamp-days", opts.Lives.Timestamp, "`DAYS` that a timestamp is good: publish twice as often")
	_ = cmd.MarkFlagRequired("product") // the flag exists: it was made above
	return cmd
}

func printKeys(w io.Writer, keys []release.Key) {
	fmt.Fprintln(w, "ROLE\tKEY\tFILE")
	for _, k := range keys {
		file := k.File
		if file == "" {
			file = "(not here)"
		}
		fmt.Fprintf(w, "%s\t%.16s\t%s\n", k.Role, k.ID, file)
	}
}

func releaseKeys(a *authoring) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "list keys, and replace them",
		Example: `  gatewarden-fleet release keys --dir repo
  gatewarden-fleet release keys rotate root 3fa9c2d1 --dir repo --keys /media/root-1 --keys /media/root-2
  gatewarden-fleet release keys rotate-pcr edge --dir repo`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.change(func(*release.Repo) error { return nil }) },
	}
	cmd.AddCommand(
		a.keyVerb("rotate ROLE [KEY]", "replace a key of root, targets, releases, snapshot or timestamp", 1, 2, func(r *release.Repo, args []string) error {
			return r.Rotate(args[0], strings.Join(args[1:], ""))
		}),
		a.keyVerb("renew-root", "sign the root again before it expires", 0, 0, func(r *release.Repo, _ []string) error { return r.RenewRoot() }),
		a.keyVerb("add-product PRODUCT", "make a PCR-policy key for another product", 1, 1, func(r *release.Repo, args []string) error { return r.AddProduct(args[0]) }),
		a.keyVerb("rotate-pcr PRODUCT", "make a new PCR-policy key; the old one goes on to sign, too", 1, 1, func(r *release.Repo, args []string) error { return r.RotatePolicyKey(args[0]) }),
		a.keyVerb("drop-pcr PRODUCT KEY", "let a PCR-policy key sign no more: when every gateway has sealed to the new one", 2, 2, func(r *release.Repo, args []string) error { return r.DropPolicyKey(args[0], args[1]) }),
	)
	return cmd
}

func (a *authoring) keyVerb(use, short string, least, most int, do func(*release.Repo, []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.RangeArgs(least, most), RunE: func(_ *cobra.Command, args []string) error {
		return a.change(func(r *release.Repo) error { return do(r, args) })
	}}
}

// change does something with keys and lists them then.
func (a *authoring) change(do func(*release.Repo) error) error {
	r, err := release.Open(a.repo())
	if err != nil {
		return err
	}
	if err := do(r); err != nil {
		return err
	}
	keys, err := r.Keys()
	if err != nil {
		return err
	}
	return a.say(keys, func(w io.Writer) { printKeys(w, keys) })
}

func releasePolicy(a *authoring) *cobra.Command {
	var fleetName string
	files := map[string]*string{"attest": new(string), "operators": new(string), "trust": new(string)}
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "write policy documents as targets, with the reference values of all releases",
		Long: `Write policy/attest.json with the reference values of every release of the
repository, and policy/operators.json and trust/fleet.json from files. The
attestation policy is printed: install it as the server's policy.json. Lists of
files that it names are taken from the folder ima beside FILE.`,
		Example: `  gatewarden-fleet release policy --dir repo --fleet lab
  gatewarden-fleet release policy --dir repo --attest policy.json --operators operators.json --trust fleet.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r, err := release.Open(a.repo())
			if err != nil {
				return err
			}
			o := release.PolicyOptions{Fleet: fleetName, List: fleet.ListsBeside(*files["attest"])}
			for name, into := range map[string]*[]byte{"attest": &o.Attest, "operators": &o.Operators, "trust": &o.Trust} {
				if *files[name] == "" {
					continue
				}
				if *into, err = os.ReadFile(*files[name]); err != nil {
					return err
				}
			}
			data, err := r.Policy(o)
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(data)
			return err
		},
	}
	cmd.Flags().StringVar(&fleetName, "fleet", "", "the fleet's `NAME`, needed once")
	cmd.Flags().StringVar(files["attest"], "attest", "", "start from the attestation policy in `FILE`: rules, exceptions")
	cmd.Flags().StringVar(files["operators"], "operators", "", "`FILE` for policy/operators.json")
	cmd.Flags().StringVar(files["trust"], "trust", "", "`FILE` for trust/fleet.json")
	return cmd
}

func releaseSign(a *authoring) *cobra.Command {
	return &cobra.Command{
		Use:     "sign",
		Short:   "sign the draft with the keys of targets and releases, as far as they are needed",
		Example: "  gatewarden-fleet release sign --dir repo\n  gatewarden-fleet release sign --dir repo --keys repo/keys --keys /media/targets",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r, err := release.Open(a.repo())
			if err != nil {
				return err
			}
			done, err := r.Sign()
			if err != nil {
				return err
			}
			return a.say(done, func(w io.Writer) { printSigned(w, done) })
		},
	}
}

func printSigned(w io.Writer, list []release.Signed) {
	fmt.Fprintln(w, "ROLE\tVERSION\tEXPIRES\t")
	for _, s := range list {
		note := "as it was"
		switch {
		case s.Changed:
			note = "signed"
		case s.Overdue:
			note = "half of its life is gone: sign with its key"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", s.Role, s.Version, s.Expires.UTC().Format(time.DateTime), note)
	}
}

func releaseList(a *authoring) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the releases, signed or drafted",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r, err := release.Open(a.repo())
			if err != nil {
				return err
			}
			list, err := r.List()
			if err != nil {
				return err
			}
			return a.say(list, func(w io.Writer) {
				fmt.Fprintln(w, "PRODUCT\tCHANNEL\tVERSION\tEPOCH\tHARDWARE")
				for _, one := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", one.Product, one.Channel, one.Version, one.Epoch, strings.Join(one.Hardware, ", "))
				}
			})
		},
	}
}
