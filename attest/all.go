package attest

// Names of rules that other code refers to.
const (
	ruleEventLog        = "event-log"
	rulePCRReplay       = "pcr-replay"
	ruleBootPhases      = "boot-phases"
	ruleCommandLine     = "command-line"
	ruleBootApplication = "boot-application"
	ruleUKISections     = "uki-sections"
	ruleExtensions      = "extensions"
	ruleClock           = "clock"
	ruleIMA             = "ima"
	ruleFirmware        = "firmware"
	ruleFirmwareState   = "firmware-state"
	ruleSecureBoot      = "secure-boot"
	ruleHealthReport    = "health-report"
)

// allRules is all that a boot is judged by, in the order in which failures of the
// same effect are told.
func allRules() []rule {
	return []rule{
		{ruleEventLog, Distrust, checkEventLog},
		{rulePCRReplay, Distrust, checkReplay},
		{ruleCommandLine, Distrust, checkCommandLine},
		{ruleBootApplication, Distrust, checkBootApplication},
		{ruleBootPhases, Distrust, checkBootPhases},
		{ruleUKISections, Distrust, checkSections},
		{ruleExtensions, Distrust, checkExtensions},
		{ruleClock, Distrust, checkClock},
		{ruleIMA, Distrust, checkIMA},
		{ruleFirmware, Degrade, checkFirmware},
		{ruleFirmwareState, Degrade, checkFirmwareState},
		{ruleSecureBoot, Info, checkSecureBoot},
		{ruleHealthReport, Info, checkHealthReport},
	}
}
