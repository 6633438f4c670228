package attest

// Every length that comes from outside has its limit here, in bytes unless the
// name says otherwise.
const (
	maxEventLog    = 512 << 10 // a firmware event log
	maxEvents      = 8192      // events in one log, count
	maxAlgorithms  = 8         // banks in one log, count
	maxIMALog      = 64 << 20  // an IMA list
	maxIMATemplate = 64 << 10  // template data of one IMA entry
	maxIMAName     = 64        // name of an IMA template
	minIMAPart     = 1 << 20   // a part of an IMA list that is not its end
	maxIMALists    = 64        // lists of files of a policy, count
	maxAllowList   = 64 << 20  // all of these
	maxPath        = 4096      // a path in one
	maxIMAKeys     = 64        // keys that sign files, count
	maxFileSums    = 1 << 16   // signatures of files that are remembered as good, count
	maxQuote       = 1024      // TPMS_ATTEST
	maxSignature   = 1024      // TPMT_SIGNATURE
	maxPublic      = 1024      // TPMT_PUBLIC
	maxClaims      = 4 << 10   // Claims in JSON
	maxModsig      = 16 << 10  // an appended signature of a module
	maxPolicy      = 1 << 20   // a policy document
	maxDepth       = 16        // nesting of JSON, levels
	maxText        = 256       // text of a fact as it is shown, characters
	maxBlame       = 256       // events of one PCR among which a false one is searched, count
)
