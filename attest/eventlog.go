package attest

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Formats of an event log.
const (
	FormatCryptoAgile = "crypto-agile" // TCG_PCR_EVENT2 behind a Spec ID header
	FormatLegacy      = "sha1-legacy"  // TCG_PCR_EVENT, SHA-1 only
)

// EventLog is a parsed firmware event log. Parsing vouches for its form only:
// Replay and a quote say whether it is true.
type EventLog struct {
	Format   string
	Banks    []Algorithm // of a crypto-agile log, in the order of its header
	Events   []LogEvent  // all, the Spec ID header being event 0
	Locality int         // of TPM2_Startup, 0 or 3, or 4 behind an H-CRTM; PCR 0 began with it
	Padding  int         // bytes of zero or 0xff behind the last event
}

// LogEvent is one event. Data is a part of the parsed input.
type LogEvent struct {
	Index  int // position in the log
	Offset int // in bytes from the log's start
	PCR    int
	Type   EventType
	Digest Digest // SHA-256 bank; zero if the log has none
	Data   []byte
	banks  []bankDigest
}

type bankDigest struct {
	alg   Algorithm
	value []byte
}

// Extends reports whether the event was extended into its PCR.
func (e *LogEvent) Extends() bool { return e.Type != evNoAction }

// ParseEventLog reads a TCG PC Client event log (Platform Firmware Profile 1.06,
// section 10), crypto-agile or legacy. It refuses what is cut off or overruns,
// with offset and reason, and allocates in proportion to len(raw) at most.
func ParseEventLog(raw []byte) (*EventLog, error) {
	if len(raw) > maxEventLog {
		return nil, fmt.Errorf("parse event log: %d bytes, at most %d are allowed", len(raw), maxEventLog)
	}
	c := &cursor{data: raw, order: binary.LittleEndian}
	log := &EventLog{Format: FormatLegacy}
	sizes, err := log.parseHeader(c)
	if err != nil {
		return nil, fmt.Errorf("parse event log: %w", err)
	}
	bare := log.Format == FormatCryptoAgile && len(log.Events) == 0
	for c.left() > 0 {
		if padding(raw[c.pos:]) {
			log.Padding = c.left()
			break
		}
		if len(log.Events) >= maxEvents {
			return nil, fmt.Errorf("parse event log: at byte %d: more than %d events", c.pos, maxEvents)
		}
		event := LogEvent{Index: len(log.Events), Offset: c.pos}
		if log.Format == FormatCryptoAgile {
			parseEvent2(c, &event, sizes)
		} else {
			parseEvent(c, &event)
		}
		if c.err != nil {
			return nil, fmt.Errorf("parse event log: event %d: %w", event.Index, c.err)
		}
		log.Events = append(log.Events, event)
	}
	if bare {
		log.findBanks()
	}
	if err := log.findLocality(); err != nil {
		return nil, fmt.Errorf("parse event log: %w", err)
	}
	return log, nil
}

// parseHeader reads event 0 of a crypto-agile log; a legacy log is left alone, and
// so is a crypto-agile one that lacks the header.
func (l *EventLog) parseHeader(c *cursor) (map[Algorithm]int, error) {
	if c.left() == 0 {
		return nil, fmt.Errorf("it is empty")
	}
	probe := *c
	first := LogEvent{}
	parseEvent(&probe, &first)
	if probe.err != nil || first.Type != evNoAction || !bytes.HasPrefix(first.Data, []byte(specIDAgile)) {
		return l.parseBare(c.data), nil
	}
	sizes, err := l.parseSpecID(first.Data, &probe)
	if err != nil {
		return nil, fmt.Errorf("event 0: Spec ID: %w", err)
	}
	*c = probe
	l.Format = FormatCryptoAgile
	first.Digest = Digest{}
	l.Events = append(l.Events, first)
	return sizes, nil
}

const specIDAgile = "Spec ID Event03\x00"

// parseBare knows a crypto-agile log without header, as boot loaders such as U-Boot
// hand over, by its first event: where a legacy one has its SHA-1, there is a small
// count and the name of a hash. It may have any bank whose digest size is known.
func (l *EventLog) parseBare(raw []byte) map[Algorithm]int {
	if len(raw) < 14 {
		return nil
	}
	count, first := binary.LittleEndian.Uint32(raw[8:]), Algorithm(binary.LittleEndian.Uint16(raw[12:]))
	if count == 0 || count > maxAlgorithms || first.size() == 0 {
		return nil
	}
	l.Format = FormatCryptoAgile
	sizes := make(map[Algorithm]int, maxAlgorithms)
	for _, alg := range []Algorithm{AlgSHA1, AlgSHA256, AlgSHA384, AlgSHA512, algSM3} {
		sizes[alg] = alg.size()
	}
	return sizes
}

// findBanks takes the banks of the first event for those of the log.
func (l *EventLog) findBanks() {
	for _, b := range l.Events[0].banks {
		l.Banks = append(l.Banks, b.alg)
	}
}

// parseSpecID reads TCG_EfiSpecIDEvent (section 10.4.5.1). Some firmware leaves the
// vendor info out of the event's size: then it is the next in rest.
func (l *EventLog) parseSpecID(data []byte, rest *cursor) (map[Algorithm]int, error) {
	c := &cursor{data: data, order: binary.LittleEndian}
	c.take(uint64(len(specIDAgile)), "signature")
	c.take(8, "platform class and version")
	count := c.u32("number of algorithms")
	if c.err == nil && (count == 0 || count > maxAlgorithms) {
		c.fail(24, "%d algorithms, 1 to %d are allowed", count, maxAlgorithms)
	}
	sizes := make(map[Algorithm]int, maxAlgorithms)
	for range count {
		at := c.pos
		alg, size := Algorithm(c.u16("algorithm")), int(c.u16("digest size"))
		if c.err != nil {
			return nil, c.err
		}
		if _, twice := sizes[alg]; twice {
			c.fail(at, "%s twice", alg)
		}
		if size == 0 || size > 64 || (alg.size() != 0 && alg.size() != size) {
			c.fail(at, "%s with digests of %d bytes", alg, size)
		}
		sizes[alg] = size
		l.Banks = append(l.Banks, alg)
	}
	vendor := uint64(c.u8("vendor info size"))
	if vendor > 0 && c.err == nil && c.left() == 0 {
		rest.take(vendor, "vendor info")
		return sizes, rest.err
	}
	c.take(vendor, "vendor info")
	return sizes, c.end("vendor info")
}

// parseEvent reads a TCG_PCR_EVENT (section 10.2.1).
func parseEvent(c *cursor, e *LogEvent) {
	pcr, kind := c.u32("PCR index"), c.u32("event type")
	digest := c.take(20, "SHA-1 digest")
	e.Data = c.take(uint64(c.u32("event size")), "event data")
	e.setPCR(c, pcr, EventType(kind))
	e.banks = []bankDigest{{AlgSHA1, digest}}
}

// parseEvent2 reads a TCG_PCR_EVENT2 (section 10.2.2). An event may lack banks of
// the header; the log can't be replayed in these.
func parseEvent2(c *cursor, e *LogEvent, sizes map[Algorithm]int) {
	pcr, kind := c.u32("PCR index"), c.u32("event type")
	at := c.pos
	count := c.u32("digest count")
	if c.err == nil && count > uint32(len(sizes)) {
		c.fail(at, "%d digests in a log of %d banks", count, len(sizes))
	}
	if c.err != nil {
		return
	}
	e.banks = make([]bankDigest, 0, count)
	for range count {
		at := c.pos
		alg := Algorithm(c.u16("digest algorithm"))
		size, known := sizes[alg]
		if c.err == nil && (!known || e.bank(alg) != nil) {
			c.fail(at, "digest of %s, which the header does not name or the event has twice", alg)
		}
		value := c.take(uint64(size), "digest")
		if c.err != nil {
			return
		}
		if alg == AlgSHA256 {
			copy(e.Digest[:], value)
		}
		e.banks = append(e.banks, bankDigest{alg, value})
	}
	e.Data = c.take(uint64(c.u32("event size")), "event data")
	e.setPCR(c, pcr, EventType(kind))
}

// setPCR refuses PCRs that no TPM has; an event that extends nothing may name any.
func (e *LogEvent) setPCR(c *cursor, pcr uint32, kind EventType) {
	e.PCR, e.Type = int(int32(pcr)), kind
	if pcr >= 24 && kind != evNoAction {
		c.fail(e.Offset, "PCR index %d", pcr)
	}
}

// DigestIn returns the event's digest in one bank, nil if it has none there.
func (e *LogEvent) DigestIn(alg Algorithm) []byte { return e.bank(alg) }

func (e *LogEvent) bank(alg Algorithm) []byte {
	for _, b := range e.banks {
		if b.alg == alg {
			return b.value
		}
	}
	return nil
}

// findLocality reads TCG_EfiStartupLocalityEvent (section 10.4.5.3). It is not
// extended, only the replay of PCR 0 confirms it. An H-CRTM, which is then the first
// event of PCR 0, sets that PCR to 4 before (TPM 2.0 Library, part 1, section 34.3).
func (l *EventLog) findLocality() error {
	const signature = "StartupLocality\x00"
	found := false
	for i := range l.Events {
		e := &l.Events[i]
		if e.Type != evNoAction || e.PCR != 0 || len(e.Data) != len(signature)+1 || !bytes.HasPrefix(e.Data, []byte(signature)) {
			continue
		}
		locality := int(e.Data[len(signature)])
		if locality != 0 && locality != 3 && locality != 4 {
			return fmt.Errorf("event %d: startup locality %d, not 0, 3 or 4", e.Index, locality)
		}
		if found && locality != l.Locality {
			return fmt.Errorf("event %d: startup locality %d after %d", e.Index, locality, l.Locality)
		}
		found, l.Locality = true, locality
	}
	if first := l.eventsOf(0); len(first) > 0 && first[0].Type == evHCRTM {
		l.Locality = 4
	}
	return nil
}

// padding reports whether nothing but 0x00 or nothing but 0xff follows: firmware
// hands over its whole buffer at times.
func padding(rest []byte) bool {
	if len(rest) == 0 || (rest[0] != 0 && rest[0] != 0xff) {
		return false
	}
	for _, b := range rest {
		if b != rest[0] {
			return false
		}
	}
	return true
}
