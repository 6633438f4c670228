package boot

// All lists the boot loaders. A new one is one file and one line here.
func All(d Deps) []Named {
	return []Named{
		{"file", newFile(d)},
		{"systemd-boot", newSystemdBoot(d)},
	}
}
