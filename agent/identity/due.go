package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"
)

// mostLife is the longest life of a certificate that the device goes by: whoever
// issued it for decades has a wrong clock, or is not who should.
const mostLife = 90 * 24 * time.Hour

// RenewAt is when a certificate is renewed: at two thirds of its life, moved
// earlier by up to a twentieth, by a share that is fixed for each serial number, so
// that a fleet enrolled in one hour does not renew in one hour.
func RenewAt(notBefore, notAfter time.Time, serial []byte) time.Time {
	life := notAfter.Sub(notBefore)
	sum := sha256.Sum256(serial)
	share := float64(binary.BigEndian.Uint32(sum[:4])) / (1 << 32)
	return notBefore.Add(life*2/3 - time.Duration(share*float64(life/20)))
}

// age is how old a certificate is, by clocks that do not follow each other.
type age struct {
	wall    time.Time     // now, as the machine says
	counted time.Duration // the process's own countdown, since the certificate was taken into use or loaded
	powered time.Duration // by the TPM, since the key was certified: at most true time, also across restarts
	fresh   bool          // counted began when it was issued
}

// due says why a certificate must be renewed now, "" if it need not be: whichever
// clock says so first. A machine's clock that says so of a certificate that was
// just issued is wrong, and another certificate would not help: at least a
// twentieth of its life passes between two.
func due(leaf *x509.Certificate, a age) string {
	life, at := plan(leaf)
	switch {
	case max(a.counted, a.powered) >= min(at, mostLife*2/3):
		return "two thirds of the certificate's life were counted"
	case a.fresh && a.counted < life/20:
		return ""
	case a.wall.After(leaf.NotAfter):
		return "the certificate has expired"
	case !a.wall.Before(leaf.NotBefore.Add(at)):
		return "two thirds of the certificate's life are over"
	}
	return ""
}

// plan is the life to go by, and after which time of it a renewal is due.
func plan(leaf *x509.Certificate) (life, at time.Duration) {
	at = RenewAt(leaf.NotBefore, leaf.NotAfter, leaf.SerialNumber.Bytes()).Sub(leaf.NotBefore)
	return min(leaf.NotAfter.Sub(leaf.NotBefore), mostLife), at
}

// Saw takes note of the TPM's clock in a statement that the TPM signed: each quote
// and each certified key has it, so that it costs no command.
func (i *Identity) Saw(statement []byte) { i.seen.Store(tpmClock(statement)) }

// age includes the time that the TPM counted since the key was certified. A chip
// that was cleared since counted nothing.
func (i *Identity) age() age {
	a := i.countdown()
	since, seen := i.Record().TPMClock, i.seen.Load()
	if since > 0 && seen > since {
		a.powered = time.Duration(min(seen-since, uint64(mostLife.Milliseconds()))) * time.Millisecond
	}
	return a
}

func (i *Identity) countdown() age {
	now, _ := i.cfg.Clock.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.adopted == 0 {
		return age{wall: now, counted: i.cfg.Counted() - i.started}
	}
	return age{wall: now, counted: i.cfg.Counted() - i.adopted, fresh: true}
}

// untilDue is the time to the next renewal, at most longestSleep.
func (i *Identity) untilDue() time.Duration {
	current, ok := i.Current()
	if !ok {
		return 0
	}
	a := i.countdown()
	life, at := plan(current.Leaf())
	wait := min(current.Leaf().NotBefore.Add(at).Sub(a.wall), min(at, mostLife*2/3)-a.counted)
	if a.fresh {
		wait = max(wait, life/20-a.counted)
	}
	return min(max(wait, time.Second), longestSleep)
}
