package doctor

// All lists every check, in the order of the report. A new one is a file and a line,
// and `go test ./agent/doctor -update` for docs/troubleshooting.md.
func All() []*Check {
	return []*Check{
		device(),
		access(),
		pcrs(),
		eventLog(),
		secureBoot(),
		ima(),
		verity(),
		ek(),
		passwords(),
		lockout(),
		nvRoom(),
		seal(),
		config(),
		trust(),
		accounts(),
		helper(),
		agentSocket(),
		product(),
		loader(),
		disk(),
		clockCheck(),
		kernel(),
		watchdog(),
	}
}
