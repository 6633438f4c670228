package doctor

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
)

// loader is whether the helper can tell the boot loader which slot to start.
func loader() *Check {
	return &Check{
		Name: "boot-loader", About: "whether the boot loader is one that the helper can switch", For: "update",
		Cases: `
none problem update
The helper knows no way to make this machine boot the other slot once and come back by itself.
Use systemd-boot 250 or later ("bootctl status"), started by the firmware, with "esp" in product.json and the EFI variables mounted.

demo advice update
The machine is set up for the loader of demo and tests: a file that something else must act upon.
On a real gateway, remove loader.json from the helper's slots folder.

pinned problem update
systemd-boot keeps to a fixed default, so a release on trial would never be started; the helper refuses to install.
"bootctl set-default ''", and remove the line "default" from loader/loader.conf on the EFI system partition.
`,
		Look: func(_ context.Context, m *Machine, n *notes) {
			p, err := m.Product()
			if err != nil {
				return // the check product says so
			}
			name, err := m.Loader(p)
			switch {
			case errors.Is(err, fs.ErrPermission):
				n.unseen("ask the boot loader", err)
			case err != nil:
				n.is("none", "%v", err)
			case name == "file":
				n.is("demo", "the boot loader is the file loader")
			}
			if _, err := m.variable("LoaderEntryDefault" + loaderVariable); err == nil {
				n.is("pinned", "the EFI variable LoaderEntryDefault is set")
			}
			path := filepath.Join(p.ESP, "loader", "loader.conf")
			conf, err := m.read(path)
			if err != nil && !absent(err) {
				n.unseen("read "+path, err)
			}
			for line := range strings.Lines(string(conf)) {
				if f := strings.Fields(line); len(f) > 0 && f[0] == "default" {
					n.is("pinned", "%s has a line default", path)
				}
			}
			n.ok("%s counts boots", name)
		},
	}
}
