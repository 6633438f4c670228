package health

import (
	"context"
	"fmt"
	"time"
)

// certificate watches the life of the device's own certificate. It is renewed at
// two thirds of it, so that 80 % says that renewal has been failing for a while.
func certificate(get func() (notBefore, notAfter time.Time, found bool), now func() time.Time) Check {
	return Check{Name: "certificate", Every: 5 * time.Minute, Run: func(context.Context) (string, string) {
		notBefore, notAfter, found := get()
		if !found {
			return Unknown, "this device has no certificate yet"
		}
		return judgeCertificate(notBefore, notAfter, now())
	}}
}

// judgeCertificate: beyond 80 % of its life is a warning, beyond 90 % critical.
func judgeCertificate(notBefore, notAfter, now time.Time) (status, summary string) {
	life, left := notAfter.Sub(notBefore), notAfter.Sub(now)
	until := notAfter.UTC().Format("2006-01-02 15:04 UTC")
	switch {
	case life <= 0:
		return Unknown, "the certificate's dates make no sense"
	case left <= 0:
		return Critical, fmt.Sprintf("the certificate expired on %s; the agent recovers by proving itself again", until)
	case now.Before(notBefore):
		return Warning, fmt.Sprintf("the certificate is valid from %s on only; is the clock right?", notBefore.UTC().Format("2006-01-02 15:04 UTC"))
	case left < life/10:
		return Critical, fmt.Sprintf("the certificate expires on %s and was not renewed in time", until)
	case left < life/5:
		return Warning, fmt.Sprintf("the certificate expires on %s; its renewal is late", until)
	}
	return OK, fmt.Sprintf("the certificate is valid until %s", until)
}
