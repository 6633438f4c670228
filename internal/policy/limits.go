package policy

import "time"

// Limits on documents and commands, in bytes unless the name says otherwise.
const (
	MaxDocument    = 256 << 10
	maxAddresses   = 16  // in each list, count
	maxAnchors     = 16  // count
	maxMessageKeys = 16  // count
	maxPeople      = 256 // count
	maxKeysEach    = 16  // keys of one person, count
	maxVerbs       = 64  // count
)

// MaxLife is the longest a command may be valid. Its id has to be remembered for
// that long, on every device that it names.
const MaxLife = 31 * 24 * time.Hour
