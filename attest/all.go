package attest

// Names of rules that other code refers to.
const (
	ruleEventLog        = "event-log"
	rulePCRReplay       = "pcr-replay"
	ruleBootPhases      = "boot-phases"
	ruleCommandLine     = "command-line"
	ruleBootApplication = "boot-application"
	ruleUKISections     = "uki-sections"
	ruleGRUB            = "grub"
	ruleExtensions      = "extensions"
	ruleClock           = "clock"
	ruleIMA             = "ima"
	ruleIMAFiles        = "ima-files"
	ruleIMASignatures   = "ima-signatures"
	ruleIMAViolations   = "ima-violations"
	ruleFirmware        = "firmware"
	ruleFirmwareState   = "firmware-state"
	ruleSecureBoot      = "secure-boot"
	ruleSecureBootKeys  = "secure-boot-keys"
	ruleHealthReport    = "health-report"
	ruleHealthGrade     = "health-grade"
	ruleSoftwareKeys    = "software-keys" // not among allRules: of gateways without a TPM
)

// allRules is all that a boot is judged by, in the order in which failures of the
// same effect are told.
func allRules() []rule {
	return []rule{
		{ruleEventLog, Distrust, "there is an event log, and it can be read", checkEventLog},
		{rulePCRReplay, Distrust, "its events replay to the quoted PCRs", checkReplay},
		{ruleCommandLine, Distrust, "every measured kernel command line is part of the release", checkCommandLine},
		{ruleBootApplication, Distrust, "every started image is part of the release", checkBootApplication},
		{ruleBootPhases, Distrust, "PCR 11 is the log's value, followed by known boot phases and nothing else", checkBootPhases},
		{ruleUKISections, Distrust, "the sections of the UKI are exactly those of the release", checkSections},
		{ruleGRUB, Distrust, "every command that GRUB ran and every file that it read is listed by the release, where it lists any", checkGRUB},
		{ruleExtensions, Distrust, "no system extension was measured", checkExtensions},
		{ruleClock, Distrust, "the TPM's counts and clock did not go back since the last quote", checkClock},
		{ruleIMA, Distrust, "the IMA list replays to PCR 10 and is of this boot; where the policy lists no files, a machine need not have one", checkIMA},
		{ruleIMAFiles, Distrust, "every file in the IMA list is listed by the policy, or signed by a key of it", checkIMAFiles},
		{ruleIMASignatures, Distrust, "no file in the IMA list has a signature by a key of the policy that does not verify", checkIMASignatures},
		{ruleIMAViolations, Distrust, "no file in the IMA list was written while it was measured, where the policy lists files", checkIMAViolations},
		{ruleSecureBootKeys, Distrust, "the Secure Boot variables that the policy lists hold only certificates that it lists", checkKeys},
		{ruleFirmware, Degrade, "the firmware's measurements are a set that is good for this hardware model", checkFirmware},
		{ruleFirmwareState, Degrade, "the firmware reported no error, debugger or missing DMA protection", checkFirmwareState},
		{ruleSecureBoot, Info, "Secure Boot is on", checkSecureBoot},
		{ruleHealthReport, Info, "the newest health report is the one that the quote names", checkHealthReport},
		{ruleHealthGrade, Info, "nothing is critical in the health report that the quote names", checkHealthGrade},
	}
}
