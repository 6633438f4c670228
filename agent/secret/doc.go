// Package secret keeps what was sealed for this gateway and its services.
//
// Its promise: a secret that Put stored is there after a power cut, at every moment of
// a re-seal too; it opens in boots that the owner approved and in no other; and a
// failure says what differs. Sealing protects against altered boots, not against
// somebody who controls the running system.
//
// # Re-sealing
//
// When a release raises the security epoch, secrets must open at the new epoch and
// stay shut at the old one. Prepare seals each again for the counter's coming value,
// into a file beside the first. Then root raises the counter: at this instant the old
// files are shut for ever and the new ones open. Settle puts the new in place of the
// old. A cut before the raise leaves the old ones good, and Prepare may be repeated or
// Abort called; a cut after it leaves the new ones good, and Settle finishes. Get
// finds the one that opens in each case.
package secret
