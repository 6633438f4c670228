package identity

import (
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

const week = 7 * 24 * time.Hour

func leafFrom(from time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: from, NotAfter: from.Add(life)}
}

// Each of the three clocks alone brings the renewal, whatever the others say.
func TestWhicheverClockSaysSoFirstRenews(t *testing.T) {
	issued := time.Unix(1_800_000_000, 0)
	leaf := leafFrom(issued, week)
	epoch, before, after := time.Unix(0, 0), issued.AddDate(-1, 0, 0), issued.AddDate(10, 0, 0)
	for name, c := range map[string]struct {
		age  age
		want bool
	}{
		"young by all":                       {age{wall: issued.Add(time.Hour), counted: time.Hour, powered: time.Hour}, false},
		"machine's clock at two thirds":      {age{wall: issued.Add(week * 2 / 3)}, true},
		"expired":                            {age{wall: issued.Add(week + time.Second)}, true},
		"clock at 1970":                      {age{wall: epoch, counted: week / 2, powered: week / 2}, false},
		"clock at 1970, countdown over":      {age{wall: epoch, counted: week * 2 / 3}, true},
		"clock at 1970, TPM's time over":     {age{wall: epoch, powered: week * 2 / 3}, true},
		"clock a year back, TPM's time over": {age{wall: before, powered: week * 2 / 3}, true},
		"ten years ahead, after a start":     {age{wall: after}, true},
		"ten years ahead, just issued":       {age{wall: after, fresh: true}, false},
		"ten years ahead, a while ago":       {age{wall: after, fresh: true, counted: week / 20}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := due(leaf, c.age); got != "" != c.want {
				t.Errorf("due: %q", got)
			}
		})
	}
}

// A stolen fleet server that claims the year 2090, or issues for 64 years, must not
// leave the device with a certificate that nobody else will ever renew.
func TestCertificateOfAnAbsurdLifeIsRenewedAllTheSame(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	in2090 := time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, leaf := range map[string]*x509.Certificate{
		"from 2090 on": leafFrom(in2090, week),
		"until 2090":   leafFrom(now, in2090.Sub(now)),
		"until 1970":   leafFrom(time.Unix(0, 0), time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			if due(leaf, age{wall: now.Add(mostLife), counted: mostLife}) == "" {
				t.Error("it is kept for more than 90 days")
			}
			if due(leaf, age{wall: now, fresh: true}) != "" {
				t.Error("it is renewed without end")
			}
		})
	}
}

func TestTPMClockIsReadFromAStatement(t *testing.T) {
	// TPMS_ATTEST: magic, type, qualified signer of 3 bytes, 2 bytes of extra data, clock.
	statement := append([]byte{0xff, 'T', 'C', 'G', 0x80, 0x17, 0, 3, 1, 2, 3, 0, 2, 4, 5}, 0, 0, 0, 0, 0, 1, 0, 0, 9)
	if got := tpmClock(statement); got != 1<<16 {
		t.Errorf("clock %d", got)
	}
	for n := range 23 {
		if got := tpmClock(statement[:n]); got != 0 {
			t.Errorf("cut to %d bytes: clock %d", n, got)
		}
	}
}
