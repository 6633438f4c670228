package attest

import (
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
)

// IMAState is what a verifier keeps of a device's IMA list between appraisals, so
// that what was replayed is never sent or replayed again. Its encoding has
// imaStateSize bytes, and a third more as text. The zero value is that of an empty
// list.
type IMAState struct {
	size       int64 // bytes of the list that were replayed
	entries    uint32
	violations uint32
	unlisted   uint32
	unsigned   uint32 // with bad signatures
	pcr        Digest // PCR 10 after them
	foreign    bool   // boot_aggregate was not that of the PCRs
	judged     bool   // by reference
	pending    bool   // pcr was not quoted yet
	reference  [16]byte
	sum        [imaSumSize]byte // SHA-256 of the list so far, as crypto/sha256 keeps it
}

const (
	imaSumSize      = 108
	imaStateSize    = 1 + 1 + 8 + 4*4 + 32 + 16 + imaSumSize // bytes
	imaStateVersion = 2
	maxUnlisted     = 8   // files that are named for each rule, count
	maxChecked      = 256 // files without leave, behind which signatures are not looked at any more, count
)

// imaTarget is what a replay is held against.
type imaTarget struct {
	quoted    Digest         // PCR 10
	pcrs      map[int]Digest // for boot_aggregate; nil: it is not judged
	reference [16]byte       // by which files are judged
	judge     imaJudge       // nil: files are not judged
	more      bool           // part is cut: the list goes on
	sum       hash.Hash      // SHA-256 of the list with the whole part; nil if it is not known yet
}

// imaJudge returns the rule that an entry breaks, and why; "" if it is allowed.
type imaJudge func(e *imaEntry) (rule, why string)

// Held says how much of the list need not be sent again: its size in bytes, and
// SHA-256 over these. It is nothing if the lists and keys of p did not judge them.
func (s *IMAState) Held(p *Policy) (size int64, digest Digest, ok bool) {
	if s == nil || s.size == 0 || s.reference != p.files.short() {
		return 0, Digest{}, false
	}
	return s.size, Digest(s.hash().Sum(nil)), true
}

// Pending reports whether more of the list is to come before it can be judged.
func (s *IMAState) Pending() bool { return s != nil && s.pending }

func (s *IMAState) hash() hash.Hash {
	h := sha256.New()
	if u, ok := h.(encoding.BinaryUnmarshaler); ok && s.size > 0 {
		if err := u.UnmarshalBinary(s.sum[:]); err != nil {
			return sha256.New() // of no list: nobody holds one with that digest
		}
	}
	return h
}

// imaRun is one replay.
type imaRun struct {
	from  *IMAState
	part  []byte // follows what from has
	want  imaTarget
	at    IMAState // after the entries that were read
	begin int      // of the next entry in part
	found *IMAState
	facts IMAFacts
}

// replay goes on with part, which follows what s has, up to the quoted value, and
// returns the state there. s is not changed.
func (s *IMAState) replay(part []byte, want imaTarget) (IMAFacts, *IMAState, error) {
	if len(part) > maxIMALog {
		return IMAFacts{}, nil, fmt.Errorf("replay IMA list: %d bytes, at most %d are allowed", len(part), maxIMALog)
	}
	r := &imaRun{from: s, part: part, want: want, at: *s}
	r.at.judged, r.at.reference = want.judge != nil, want.reference
	if s.pcr == want.quoted {
		r.found = r.keep()
	}
	if err := r.read(); err != nil {
		return r.facts, nil, err
	}
	switch {
	case r.found != nil:
		r.found.pending = false
		r.facts.Ahead = uint64(r.at.entries - r.found.entries)
	case want.more && r.begin > 0 && s.size+int64(r.begin) <= maxIMALog:
		r.found = r.keep()
		r.found.pending = true
	default:
		r.facts.Entries = uint64(r.at.entries)
		return r.facts, nil, ErrIMAAhead
	}
	r.found.tell(&r.facts)
	return r.facts, r.found, nil
}

// read reads all whole entries of the part.
func (r *imaRun) read() error {
	c := &cursor{data: r.part, order: binary.LittleEndian}
	var entry imaEntry
	for ; c.left() > 0; r.begin = c.pos {
		if entry.read(c); c.err != nil {
			if r.want.more && c.short {
				return nil
			}
			return fmt.Errorf("replay IMA list: entry %d: %w", r.at.entries, c.err)
		}
		if entry.pcr != imaPCR {
			continue
		}
		r.at.take(&entry, &r.facts, r.want)
		if r.at.pcr == r.want.quoted {
			r.begin = c.pos
			r.found = r.keep()
		}
	}
	return nil
}

// keep returns the state before the next entry.
func (r *imaRun) keep() *IMAState {
	kept := r.at
	kept.size += int64(r.begin)
	sum := r.want.sum
	if sum == nil || r.begin < len(r.part) {
		sum = r.from.hash()
		sum.Write(r.part[:r.begin])
	}
	kept.keepSum(sum)
	return &kept
}

// take judges one entry and extends it.
func (s *IMAState) take(e *imaEntry, facts *IMAFacts, want imaTarget) {
	n := s.entries
	s.entries++
	s.pcr = Extend(s.pcr, e.extend())
	if n == 0 && !e.violation && string(e.path) == "boot_aggregate" {
		if len(e.digest) == sha256.Size {
			facts.BootAggregate = Digest(e.digest)
		}
		aggregates := bootAggregates(want.pcrs)
		s.foreign = want.pcrs != nil && len(e.digest) == sha256.Size && !slices.Contains(aggregates[:], facts.BootAggregate)
		return
	}
	if e.violation {
		s.violations++
	}
	if want.judge == nil {
		return
	}
	if s.unlisted+s.unsigned >= maxChecked {
		e.signature, e.modsig = nil, nil // enough is wrong already: no more work for it
	}
	rule, why := want.judge(e)
	switch rule {
	case "":
		return
	case ruleIMAFiles:
		s.unlisted++
	case ruleIMASignatures:
		s.unsigned++
	}
	if len(facts.breaking(rule)) < maxUnlisted {
		facts.First = append(facts.First, e.describe(uint64(n), rule, why))
	}
}

// tell writes what s knows into facts.
func (s *IMAState) tell(facts *IMAFacts) {
	facts.Entries, facts.Violations, facts.Unlisted, facts.BadSignatures = uint64(s.entries), uint64(s.violations), uint64(s.unlisted), uint64(s.unsigned)
	facts.Foreign, facts.Judged, facts.Pending = s.foreign, s.judged, s.pending
	facts.First = slices.DeleteFunc(facts.First, func(f IMAFile) bool { return f.Entry >= facts.Entries })
}

func (s *IMAState) keepSum(h hash.Hash) {
	if m, ok := h.(encoding.BinaryAppender); ok {
		if state, err := m.AppendBinary(s.sum[:0]); err != nil || len(state) != imaSumSize {
			s.sum = [imaSumSize]byte{} // nobody holds a list with that digest: it is sent whole
		}
	}
}

// MarshalText encodes s, 243 characters.
func (s *IMAState) MarshalText() ([]byte, error) {
	var flags byte
	for i, set := range []bool{s.foreign, s.judged, s.pending} {
		if set {
			flags |= 1 << i
		}
	}
	out := append(make([]byte, 0, imaStateSize), imaStateVersion, flags)
	out = binary.BigEndian.AppendUint64(out, uint64(s.size))
	for _, n := range []uint32{s.entries, s.violations, s.unlisted, s.unsigned} {
		out = binary.BigEndian.AppendUint32(out, n)
	}
	out = append(append(append(out, s.pcr[:]...), s.reference[:]...), s.sum[:]...)
	return base64.RawStdEncoding.AppendEncode(nil, out), nil
}

// UnmarshalText takes what MarshalText makes. A state of version 1, which did not
// know the rules apart, becomes that of an empty list: it is sent whole and judged anew.
func (s *IMAState) UnmarshalText(text []byte) error {
	data, err := base64.RawStdEncoding.Strict().AppendDecode(nil, text)
	if err == nil && len(data) == imaStateSize-4 && data[0] == 1 {
		*s = IMAState{}
		return nil
	}
	if err != nil || len(data) != imaStateSize || data[0] != imaStateVersion || data[1] > 7 {
		return fmt.Errorf("decode state of IMA list: it is not one of version %d", imaStateVersion)
	}
	c := &cursor{data: data[2:], order: binary.BigEndian}
	s.foreign, s.judged, s.pending = data[1]&1 != 0, data[1]&2 != 0, data[1]&4 != 0
	s.size = int64(c.u64("size"))
	s.entries, s.violations, s.unlisted, s.unsigned = c.u32("entries"), c.u32("violations"), c.u32("unlisted"), c.u32("unsigned")
	copy(s.pcr[:], c.take(32, "PCR"))
	copy(s.reference[:], c.take(16, "reference"))
	copy(s.sum[:], c.take(imaSumSize, "sum"))
	return c.end("state")
}

var (
	_ encoding.TextMarshaler   = (*IMAState)(nil)
	_ encoding.TextUnmarshaler = (*IMAState)(nil)
)
