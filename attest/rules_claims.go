package attest

import "fmt"

// checkHealthReport compares what came by way of a broker with what the quote
// names. It can't tell a forged report from one that was overtaken by another that
// has not arrived; neither is what the device says of itself now.
func checkHealthReport(a *appraisal) (bool, string) {
	report, quoted := a.expect.Report, a.claims.Posture
	switch {
	case report == nil || quoted == "":
		return true, "health report: there is none to compare"
	case report.Posture == quoted:
		return true, "health report is the one that the quote names"
	case !report.Settled:
		return true, "health report is newer than the challenge: the next quote confirms it"
	}
	return false, fmt.Sprintf("health report: the quote names another (%.8s…) than the newest that came (%.8s…): forged, or overtaken by one that is under way; it counts for nothing",
		clean(quoted), report.Posture)
}

// checkHealthGrade takes the device's word, and only where the quote names the report:
// nobody else can say that it is ill, or well.
func checkHealthGrade(a *appraisal) (bool, string) {
	report := a.expect.Report
	switch {
	case report == nil || report.Posture != a.claims.Posture:
		return true, "health: there is no report that the quote names"
	case report.Critical == "":
		return true, "health: nothing is critical in the report that the quote names"
	}
	return false, "health: critical in the report that the quote names: " + clean(report.Critical)
}
