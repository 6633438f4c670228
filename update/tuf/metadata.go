package tuf

// rootFile is section 4.3.
type rootFile struct {
	*file
	consistent bool
	roles      map[string]signers
}

func readRoot(data []byte) (*rootFile, error) {
	f, err := open(Root, Root, data, MaxRoot)
	if err != nil {
		return nil, err
	}
	r := &rootFile{file: f, consistent: f.signed.flag("consistent_snapshot"), roles: make(map[string]signers)}
	keys, roles := readKeys(f.signed), f.signed.object("roles")
	for _, name := range []string{Root, Timestamp, Snapshot, Targets} {
		r.roles[name] = readSigners(roles.object(name), keys)
	}
	return r, f.done()
}

// meta is what timestamp and snapshot say of another file (section 4.4).
type meta struct {
	version int64
	content content
}

// metaFile is a timestamp (4.6) or a snapshot (4.4).
type metaFile struct {
	*file
	meta map[string]meta // by file name, without version
}

func readMetaFile(role string, data []byte, limit int64) (*metaFile, error) {
	f, err := open(role, role, data, limit)
	if err != nil {
		return nil, err
	}
	m := &metaFile{file: f, meta: make(map[string]meta)}
	all := f.signed.object("meta")
	for name := range all.members {
		about := all.object(name)
		m.meta[name] = meta{version: about.integer("version", 1), content: readContent(about)}
	}
	if role == Timestamp && !all.has(snapshotFile) {
		all.fault(snapshotFile, "is missing")
	}
	return m, f.done()
}

// targetsFile is section 4.5.
type targetsFile struct {
	*file
	targets     map[string]Target
	delegations []delegation
}

func readTargets(role string, data []byte) (*targetsFile, error) {
	f, err := open(role, Targets, data, MaxTargets)
	if err != nil {
		return nil, err
	}
	t := &targetsFile{file: f, targets: make(map[string]Target)}
	all := f.signed.object("targets")
	for path := range all.members {
		if !safePath(path) {
			return nil, refuse(role, "name", "target %.80q is no path inside the repository", path)
		}
		t.targets[path] = readTarget(all.object(path), role, path)
	}
	if f.signed.has("delegations") {
		t.delegations = readDelegations(f.signed.object("delegations"))
	}
	return t, f.done()
}
