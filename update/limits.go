package update

// Limits of what the engine keeps and takes in.
const (
	maxRecord   = 256 << 10 // bytes of record.json
	maxHistory  = 16        // outcomes, count
	maxBlocked  = 16        // count
	maxReleases = 256       // releases of one channel that are looked at, the latest first; count
	maxTrials   = 2         // boots on trial: the second is for a power cut in the first
	maxDamaged  = 3         // failures in a row because chunks were damaged everywhere, count
	maxText     = 1000      // bytes of a sentence that is reported
	saveFetched = 4 << 20   // bytes read between two notes of how many
)
