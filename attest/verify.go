package attest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

const nonceSize = 32 // bytes of Expect.Nonce

// Verify judges evidence by DESIGN, section 5. It returns a *Refusal for evidence
// that proves nothing (not this device's, not fresh, not whole), a Result for
// evidence that proves a boot, good or bad, and another error if e is not fit to
// judge by. It is a pure function: e.Now is all the time it knows.
func Verify(ev Evidence, e Expect) (*Result, error) {
	if err := checkExpect(&e); err != nil {
		return nil, fmt.Errorf("verify evidence: %w", err)
	}
	ak, err := parseAK(e.AK)
	if err != nil {
		return nil, fmt.Errorf("verify evidence: read attestation key: %w", err)
	}
	if ev.Version != 1 {
		return nil, refuse("version", "evidence of version %d, not 1: a higher one needs a newer server", ev.Version)
	}
	q, err := openQuote(ak, ev.Quote, ev.Signature)
	if err != nil {
		return nil, err
	}
	if err := checkNonce(q, ev.Claims, &e); err != nil {
		return nil, err
	}
	if err := checkPCRs(q, ev.PCRs); err != nil {
		return nil, err
	}
	claims, err := openClaims(ev.Claims, &e)
	if err != nil {
		return nil, err
	}
	if claims.SoftwareKeys {
		return nil, refuse(ruleSoftwareKeys, "a device with a TPM claims that its keys lie in software")
	}
	log, err := openLog(&ev, e.Logs)
	if err != nil {
		return nil, err
	}
	list, err := openIMA(&ev.IMALog, &e)
	if err != nil {
		return nil, err
	}
	q.clock.Key = sha256.Sum256(e.AK)
	e.Firmware = slices.Concat(e.Firmware, e.Policy.firmwareOf(e.Model))
	return conclude(&appraisal{expect: &e, pcrs: ev.PCRs, clock: q.clock, claims: claims}, log, list), nil
}

// conclude replays the logs against what was quoted and judges by all rules.
func conclude(a *appraisal, log *knownLog, list *imaPart) *Result {
	a.replayEventLog(log)
	a.replayIMA(list)
	a.matchReferences()
	grade, rules := a.judge(allRules())
	amendments := a.amend(rules)
	return &Result{
		grade: grade, rules: rules, facts: a.facts, clock: a.clock, claims: a.claims,
		amendments: amendments, lines: a.explain(grade, rules, amendments), ima: a.imaState,
	}
}

// checkExpect refuses to judge by half: what is missing would be a check left out.
func checkExpect(e *Expect) error {
	switch {
	case e.Fleet == "" || e.Device == "":
		return errors.New("fleet or device is missing")
	case len(e.Nonce) != nonceSize:
		return fmt.Errorf("nonce of %d bytes, not %d", len(e.Nonce), nonceSize)
	case e.Policy == nil || e.Policy.releases == nil:
		return errors.New("policy was not made by ParsePolicy")
	case e.Policy.IMA != nil && e.Policy.files == nil:
		return errors.New("the policy's lists of files were not read: Policy.ReadLists comes first")
	case e.Policy.Fleet != e.Fleet:
		return fmt.Errorf("policy is for the fleet %q, the evidence is of %q", e.Policy.Fleet, e.Fleet)
	case e.Now.IsZero():
		return errors.New("time is missing")
	}
	return nil
}

func checkNonce(q *quote, claims []byte, e *Expect) error {
	if !bytes.Equal(q.extraData, QualifyingData(e.Fleet, e.Device, e.Nonce, claims)) {
		return refuse("nonce", "the quote is not over this fleet, device, nonce and claims: it is old, or made for another")
	}
	return nil
}

func checkPCRs(q *quote, pcrs map[int]Digest) error {
	if !q.coversSelection() {
		return refuse("selection", "the quote does not cover exactly PCRs 0 to 14 of the SHA-256 bank")
	}
	for _, pcr := range selection {
		if _, ok := pcrs[pcr]; !ok {
			return refuse("pcrs", "the value of PCR %d is missing", pcr)
		}
	}
	if len(pcrs) != len(selection) {
		return refuse("pcrs", "values of %d PCRs, not %d", len(pcrs), len(selection))
	}
	if digest := pcrsDigest(pcrs); !bytes.Equal(q.pcrDigest, digest[:]) {
		return refuse("digest", "the PCR values are not those that were quoted")
	}
	return nil
}

// openClaims reads what the quote signed and binds it to the channel: evidence
// that somebody relays names another key.
func openClaims(data []byte, e *Expect) (Claims, error) {
	var claims Claims
	if len(data) > maxClaims {
		return claims, refuse("claims", "claims of %d bytes, at most %d are allowed", len(data), maxClaims)
	}
	if err := decodeStrict(data, &claims); err != nil {
		return claims, refuse("claims", "claims: %v", err)
	}
	if claims.Version != 1 {
		return claims, refuse("claims", "claims of version %d, not 1: a higher one needs a newer server", claims.Version)
	}
	if n := len(claims.Keys); n < 1 || n > 2 {
		return claims, refuse("claims", "claims name %d operational keys, not one or two", n)
	}
	for _, key := range claims.Keys {
		if !isHexDigest(key) || !slices.Contains(e.Keys, key) {
			return claims, refuse("keys", "claims name an operational key that is not registered for this device")
		}
	}
	if e.Channel != "" && !slices.Contains(claims.Keys, e.Channel) {
		return claims, refuse("channel", "the evidence came through a channel of another key than it names")
	}
	return claims, nil
}

// openLog wants a whole event log that is what the device said it is. Whether it is
// true is the quote's to say. It is nil if the machine has none.
func openLog(ev *Evidence, cache *LogCache) (*knownLog, error) {
	if known := cache.find(ev.EventLog.Digest); known != nil {
		return known, nil
	}
	if err := checkLog(&ev.EventLog); err != nil {
		return nil, err
	}
	if ev.EventLog.Digest.IsZero() {
		return nil, nil
	}
	known := readLog(ev.EventLog.Digest, ev.EventLog.Bytes)
	cache.add(known)
	return known, nil
}

func checkLog(log *Log) error {
	switch {
	case log.Offset != 0:
		return refuse("log", "the event log begins at byte %d", log.Offset)
	case len(log.Bytes) > maxEventLog:
		return refuse("log", "the event log has %d bytes, at most %d are allowed", len(log.Bytes), maxEventLog)
	case log.Digest.IsZero() && len(log.Bytes) == 0:
		return nil
	case sha256.Sum256(log.Bytes) != log.Digest:
		return refuse("log", "the event log is not the one that its digest names")
	}
	return nil
}

// replayEventLog finds which PCRs it accounts for, and takes facts
// from these alone.
func (a *appraisal) replayEventLog(known *knownLog) {
	a.facts.SecureBoot = "unknown"
	if known == nil {
		a.logError = "the machine has none"
		return
	}
	if known.err != nil {
		a.logError = clean(known.err.Error())
		return
	}
	a.log, a.replay = known.log, known.replay
	all := true
	for _, pcr := range replayed() {
		a.holds[pcr] = a.logged(pcr) == a.pcrs[pcr]
		all = all && a.holds[pcr]
	}
	phases, ok := findPhases(a.phasePaths(), a.logged(11), a.pcrs[11])
	a.holds[11] = ok
	if a.facts = known.facts; !all || !ok {
		a.facts = extractFacts(a.log, func(pcr int) bool { return a.holds[pcr] })
	}
	a.facts.Phases = phases
}

// phasePaths are those of all releases: which release it is, is known only after
// PCR 11 was read.
func (a *appraisal) phasePaths() [][]string {
	paths := defaultPhases()
	for i := range a.expect.Policy.releases {
		paths = append(paths, a.expect.Policy.releases[i].Phases...)
	}
	return paths
}

func (a *appraisal) matchReferences() {
	a.release = a.findRelease()
	a.nameCommandLines()
	a.firmware = a.findFirmware()
	if a.firmware != nil {
		a.facts.FirmwareName = a.firmware.Name
	}
	if a.release == nil {
		return
	}
	for _, check := range []func(*appraisal) (bool, string){checkBootApplication, checkCommandLine, checkSections, checkGRUB} {
		if ok, _ := check(a); !ok {
			return
		}
	}
	a.facts.Release = a.release.Name()
}

// nameCommandLines gives those command lines their text whose event does not hold
// it, but whose digest a release knows.
func (a *appraisal) nameCommandLines() {
	a.facts.CommandLines = slices.Clone(a.facts.CommandLines)
	for i := range a.facts.CommandLines {
		line := &a.facts.CommandLines[i]
		for j := range a.expect.Policy.releases {
			if text, ok := a.expect.Policy.releases[j].commandLines[line.Digest]; ok {
				line.Text, line.Described = text, ""
			}
		}
	}
}
