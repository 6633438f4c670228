package tuf

// Limits of what comes from outside. A length that signed metadata gives lowers
// the limit of a file, it never raises it.
const (
	MaxRoot      = 512 << 10 // bytes
	MaxTimestamp = 16 << 10  // bytes
	MaxSnapshot  = 1 << 20   // bytes
	MaxTargets   = 4 << 20   // bytes, each targets file

	MaxRootSteps   = 256 // new roots in one Refresh; the next one goes on
	MaxRolesSought = 32  // targets roles looked into for one target (5.6.7.1)

	MaxSignatures = 64  // in one file
	MaxKeys       = 256 // in one file
	MaxRoles      = 256 // delegations in one file
	MaxPatterns   = 256 // paths or path hash prefixes in one delegation

	MaxRoleName   = 64  // bytes; escaped, with its ending, it is a file name
	MaxTargetPath = 512 // bytes
	MaxRSABits    = 8192
	MinRSABits    = 2048
)
