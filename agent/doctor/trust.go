package doctor

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/internal/policy"
)

const rootFile = "root.json" // of the update repository

// trust is whether the documents are there that this machine obeys.
func trust() *Check {
	return &Check{
		Name: "trust", About: "the documents of the fleet and of its owner", For: "all",
		Cases: `
missing problem all
The agent waits for these documents and does nothing until they are there.
Install fleet.json and operators.json ("gatewarden-fleet init" makes them) with mode 0644, by a way that you trust. The agent starts by itself then.

damaged problem all
The agent does not start with this document.
Copy it again; "gatewarden-fleet init" and the fleet's trust folder have it. Don't edit it by hand.

two-fleets problem all
The two documents are of different fleets, and the agent does not start.
Install both documents of one fleet.

writable problem update report
Others than root could have written this. The root helper believes none of it: it installs nothing and does not reboot.
"chown root:root" and "chmod go-w", on the folder too; then make sure that the contents are what you installed.

no-root problem seal update
Without the root of the owner's update repository this gateway takes in no releases, and seals nothing: PCR policies come with releases.
Install the repository's root.json in the same folder ("gatewarden-fleet release init" makes it). A gateway that is to do neither needs none.
`,
		Look: lookAtTrust,
	}
}

func lookAtTrust(_ context.Context, m *Machine, n *notes) {
	dir := m.Settings.Trust
	m.foreign(n, dir)
	var missing, fleets []string
	for _, name := range []string{policy.FleetFile, policy.OperatorsFile} {
		path := filepath.Join(dir, name)
		data, err := m.read(path)
		if absent(err) {
			missing = append(missing, name)
			continue
		}
		var fleet string
		if err == nil {
			if fleet, err = fleetOf(name, data); err != nil {
				n.is("damaged", "%s: %v", path, err)
				continue
			}
		}
		if err != nil {
			n.unseen("read "+path, err)
			continue
		}
		fleets = append(fleets, fleet)
		m.foreign(n, path)
	}
	if len(missing) > 0 {
		n.is("missing", "%s has no %s", dir, strings.Join(missing, " and no "))
	}
	if len(fleets) == 2 && fleets[0] != fleets[1] {
		n.is("two-fleets", "%s and %s", fleets[0], fleets[1])
	}
	path := filepath.Join(dir, rootFile)
	if _, err := m.read(path); absent(err) {
		n.is("no-root", "there is no %s", path)
	} else if err != nil {
		n.unseen("read "+path, err)
	}
	m.foreign(n, path)
	n.ok("documents of fleet %s in %s", strings.Join(slices.Compact(fleets), ", "), dir)
}

func fleetOf(name string, data []byte) (string, error) {
	if name == policy.FleetFile {
		f, err := policy.ParseFleet(data)
		if err != nil {
			return "", err
		}
		return f.Fleet, nil
	}
	o, err := policy.ParseOperators(data)
	if err != nil {
		return "", err
	}
	return o.Fleet, nil
}

// foreign notes what the helper would refuse to read. Root is whose / is.
func (m *Machine) foreign(n *notes, path string) {
	info, stat, err := m.owned(path)
	_, root, rootErr := m.owned("/")
	switch {
	case absent(err): // somebody else says so
	case err != nil || rootErr != nil:
		n.unseen("tell whose "+path+" is", errors.Join(err, rootErr))
	case stat.Uid != root.Uid || info.Mode().Perm()&0o022 != 0:
		n.is("writable", "%s belongs to user %d and has mode %04o", path, stat.Uid, info.Mode().Perm())
	}
}
