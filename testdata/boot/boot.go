// Package boot holds logs of a boot that was recorded in a virtual machine: OVMF,
// systemd-boot, a unified kernel image, swtpm. README says how they belong together.
package boot

import _ "embed" // for the log

// EventLog is the firmware's event log, 37 events, crypto agile.
//
//go:embed ovmf-uki.eventlog
var EventLog []byte
