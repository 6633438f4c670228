package conf

import (
	"encoding"
	"errors"
	"fmt"
	"time"
)

// Duration is a time span written as a string with its unit: "90s", "5m",
// "1h30m". It is never negative. A day is "24h".
type Duration time.Duration

// UnmarshalText reads a Duration.
func (d *Duration) UnmarshalText(text []byte) error {
	span, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no time span; write it with its unit, as in \"30s\", \"5m\" or \"24h\"", text)
	}
	if span < 0 {
		return errors.New("a time span can't be negative")
	}
	*d = Duration(span)
	return nil
}

// String is as time.Duration's.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes a Duration as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

var (
	_ encoding.TextUnmarshaler = (*Duration)(nil)
	_ encoding.TextMarshaler   = Duration(0)
)
