package mqttconn

import "time"

// baseBackoff is the widest wait before the first attempt.
const baseBackoff = time.Second

// Backoff is how long to wait before attempt 0, 1, ... : anything between
// nothing and a bound that doubles up to limit. r is random in [0,1). With full
// jitter a fleet that lost its broker at one moment comes back spread out.
func Backoff(attempt int, limit time.Duration, r float64) time.Duration {
	bound := limit
	if attempt >= 0 && attempt < 30 {
		bound = min(limit, baseBackoff<<attempt)
	}
	return time.Duration(r * float64(bound))
}
