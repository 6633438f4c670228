package health

import (
	"context"
	"time"
)

// softwareKeys says, in every report of a device without a TPM, that it has none.
func softwareKeys() Check {
	return Check{Name: "software-keys", Every: time.Hour, Run: func(context.Context) (string, string) {
		return Warning, "software keys: there is no TPM, so nothing proves what this device booted, and its keys can be copied"
	}}
}
