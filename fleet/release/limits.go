package release

// Limits, in bytes unless the name says otherwise.
const (
	maxSettings = 64 << 10
	maxDraft    = 16 << 20
	maxMetadata = 4 << 20   // one signed file; update/tuf takes no more
	maxKey      = 16 << 10  // one PEM file
	maxKeyFiles = 256       // in one folder, count
	maxDocument = 1 << 20   // a policy document
	maxBoot     = 512 << 20 // a UKI or boot loader: it is read whole
	maxWord     = 64
	maxRootKeys = 16
	maxDays     = 3660    // that a signed file is good
	maxName     = 1 << 10 // the path of a served file
)
