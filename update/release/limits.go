package release

// Limits of a release target, in bytes unless the name says otherwise.
const (
	MaxRelease    = 256 << 10    // the custom metadata of one target
	MaxWord       = 64           // product, channel, slot, check
	MaxModel      = 256          // a hardware model
	MaxModels     = 256          // hardware models, count
	MaxImages     = 16           // images, count
	MaxImageSize  = 1 << 40      // one image
	MaxPath       = 256          // the path of a target
	MaxCriteria   = 32           // checks of Confirm, count
	MaxTimeout    = 24 * 60 * 60 // of Confirm, in seconds
	MaxEpoch      = 1 << 16      // the security epoch: far beyond any life, and small enough to list policies for each
	MaxPolicies   = 512          // PCR policies, count
	MaxPhases     = 128          // a boot-phase path
	MaxPolicySig  = 1 << 10      // the signature of a PCR policy
	MaxReference  = 128 << 10    // the reference values
	MaxNotes      = 16 << 10     // the notes
	MaxVersion    = 64           // a version
	lastPCR       = 23
	formatVersion = 1
)
