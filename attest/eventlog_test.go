package attest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestRecordedLogReplaysToThePCRsOfItsTPM(t *testing.T) {
	log, err := ParseEventLog(readFile(t, bootData, "ovmf-uki.eventlog"))
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := log.Replay()
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[int]string{ // read in the guest
		0:  "177e29c417b6b61c7cf46ed30b4468931f58642527a268b556254e39b941ec6a",
		1:  "c576af79fd40d0f6f050701b427a33512391f0c161d2e0bfb93e061d419bddff",
		4:  "85951a840df9733e77cd99bc93e263b33f9c8c0ec2eee4a9bd8e76cf1189cff2",
		5:  "a50e64aeb491ff4180e8a03e7e6bba81b4df34de2167172a8c0db3e502305f28",
		7:  "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068",
		9:  "66e6b4d7be69af814c0375afae728d0d4a561b50bebcb2e85780af17f7d61bcf",
		12: "72eff68a1ad60547a4ef46d4e86ec4087e630c93411b77f0425e21089d7a8414",
	}
	for pcr, want := range recorded {
		if pcrs[pcr].String() != want {
			t.Errorf("PCR %d is %s, want %s", pcr, pcrs[pcr], want)
		}
	}
	quoted, _ := ParseDigest("19ce8a798083a5246ad1f5e07d30d1ca098ab1f22d4ccaec06a4a3c90a3852c3")
	if words, ok := findPhases(defaultPhases(), pcrs[11], quoted); !ok || strings.Join(words, " ") != "sysinit ready" {
		t.Errorf("boot phases %q, %v", words, ok)
	}
}

func TestTruncatedLogIsRefusedWithOffsetAtEveryLength(t *testing.T) {
	raw := readFile(t, bootData, "ovmf-uki.eventlog")
	log, err := ParseEventLog(raw)
	if err != nil {
		t.Fatal(err)
	}
	whole := map[int]bool{}
	for _, e := range log.Events {
		whole[e.Offset] = true
	}
	for n := range raw {
		_, err := ParseEventLog(raw[:n])
		if whole[n] && n > 0 {
			if err != nil {
				t.Errorf("%d bytes end with an event: %v", n, err)
			}
			continue
		}
		if err == nil && !padding(raw[lastOffset(log, n):n]) {
			t.Errorf("%d bytes end within an event and are accepted", n)
		}
		if err != nil && n > 0 && !strings.Contains(err.Error(), "at byte") {
			t.Errorf("no offset: %v", err)
		}
	}
}

func lastOffset(log *EventLog, n int) int {
	last := 0
	for _, e := range log.Events {
		if e.Offset <= n {
			last = e.Offset
		}
	}
	return last
}

func TestPaddedLogReplays(t *testing.T) {
	raw := readFile(t, bootData, "ovmf-uki.eventlog")
	for _, fill := range []byte{0, 0xff} {
		padded := append(slices.Clone(raw), bytes.Repeat([]byte{fill}, 4096)...)
		log, err := ParseEventLog(padded)
		if err != nil || len(log.Events) != 37 || log.Padding != 4096 {
			t.Errorf("padded by 0x%02x: %v", fill, err)
		}
	}
	if _, err := ParseEventLog(append(slices.Clone(raw), 0, 0, 0xff)); err == nil {
		t.Error("garbage behind the log is accepted")
	}
}

func TestStartupLocalityBeginsPCR0(t *testing.T) {
	locality := func(n byte) LogEvent {
		return LogEvent{Type: evNoAction, Data: append([]byte("StartupLocality\x00"), n)}
	}
	event := LogEvent{PCR: 0, Type: evPostCode, Digest: Digest{1}}
	for _, n := range []byte{0, 3, 4} {
		log, err := ParseEventLog(AppendEvent(AppendEvent(NewEventLog(), locality(n)), event))
		if err != nil {
			t.Fatal(err)
		}
		pcrs, err := log.Replay()
		if err != nil || pcrs[0] != Extend(Digest{31: n}, event.Digest) {
			t.Errorf("locality %d: PCR 0 is %s, %v", n, pcrs[0], err)
		}
	}
	for _, raw := range [][]byte{
		AppendEvent(NewEventLog(), locality(2)),
		AppendEvent(AppendEvent(NewEventLog(), locality(3)), locality(4)),
	} {
		if _, err := ParseEventLog(raw); err == nil {
			t.Error("an impossible startup locality is accepted")
		}
	}
}

func TestHCRTMBeginsPCR0WithFour(t *testing.T) {
	hcrtm := LogEvent{PCR: 0, Type: evHCRTM, Digest: Digest{1}, Data: []byte("HCRTM")}
	later := LogEvent{PCR: 0, Type: evPostCode, Digest: Digest{2}}
	for _, c := range []struct {
		events []LogEvent
		first  byte
	}{{[]LogEvent{hcrtm, later}, 4}, {[]LogEvent{later, hcrtm}, 0}} {
		raw := NewEventLog()
		want := Digest{31: c.first}
		for _, e := range c.events {
			raw = AppendEvent(raw, e)
			want = Extend(want, e.Digest)
		}
		log, err := ParseEventLog(raw)
		if err != nil {
			t.Fatal(err)
		}
		if pcrs, err := log.Replay(); err != nil || pcrs[0] != want {
			t.Errorf("PCR 0 is %s, %v, want %s", pcrs[0], err, want)
		}
	}
}

// U-Boot and its kin hand over crypto-agile events without the Spec ID event.
func TestCryptoAgileLogWithoutHeaderIsRead(t *testing.T) {
	raw := readFile(t, bootData, "ovmf-uki.eventlog")
	whole, err := ParseEventLog(raw)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := ParseEventLog(raw[whole.Events[1].Offset:])
	if err != nil {
		t.Fatal(err)
	}
	want, err := whole.Replay()
	if err != nil {
		t.Fatal(err)
	}
	got, err := bare.Replay()
	if err != nil || !maps.Equal(got, want) || bare.Format != FormatCryptoAgile || !slices.Equal(bare.Banks, []Algorithm{AlgSHA256}) {
		t.Errorf("%s, banks %v: %v", bare.Format, bare.Banks, err)
	}
	if _, err := ParseEventLog(raw[whole.Events[1].Offset : len(raw)-1]); err == nil || !strings.Contains(err.Error(), "at byte") {
		t.Errorf("a cut one: %v", err)
	}
}

// GHSA-9r4w-jg96-92mv: four gigabytes were allocated for a length field.
func TestHostileLengthsAllocateNothing(t *testing.T) {
	raw := readFile(t, bootData, "ovmf-uki.eventlog")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for offset := 0; offset+4 <= len(raw); offset++ {
		hostile := slices.Clone(raw)
		binary.LittleEndian.PutUint32(hostile[offset:], 0xfffffff0)
		_, _ = ParseEventLog(hostile)
	}
	runtime.ReadMemStats(&after)
	perRun := (after.TotalAlloc - before.TotalAlloc) / uint64(len(raw))
	if limit := uint64(16 * len(raw)); perRun > limit {
		t.Errorf("%d bytes allocated for a log of %d, at most %d are allowed", perRun, len(raw), limit)
	}
}

func TestLogWithoutTheBankOfAnEventDoesNotReplay(t *testing.T) {
	raw := AppendEvent(NewEventLog(), LogEvent{PCR: 1, Type: evIPL, Digest: Digest{1}})
	raw = binary.LittleEndian.AppendUint32(raw, 1)
	raw = binary.LittleEndian.AppendUint32(raw, uint32(evIPL))
	raw = append(raw, make([]byte, 8)...) // no digest, no data
	log, err := ParseEventLog(append(raw, AppendEvent(nil, LogEvent{PCR: 2, Type: evIPL})...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Replay(); !errors.Is(err, ErrNoBank) {
		t.Errorf("got %v, want ErrNoBank", err)
	}
}

// go-eventlog PR 34: bytes of the header passed for signatures.
func TestSignatureListHeaderIsNotASignature(t *testing.T) {
	kind, err := hex.DecodeString("2616c4c14c509240aca941f936934328") // SHA-256, as in memory
	if err != nil {
		t.Fatal(err)
	}
	list := func(total, header, size uint32, body []byte) []byte {
		out := slices.Clone(kind)
		for _, n := range []uint32{total, header, size} {
			out = binary.LittleEndian.AppendUint32(out, n)
		}
		return append(out, body...)
	}
	count := func(data []byte) (int, error) {
		n := 0
		err := walkSignatures(data, func(string, []byte) { n++ })
		return n, err
	}
	if n, err := count(list(28+2*48, 0, 48, make([]byte, 96))); n != 2 || err != nil {
		t.Errorf("a list of two: %d, %v", n, err)
	}
	bad := map[string][]byte{
		"header in a hash list": list(28+48+48, 48, 48, make([]byte, 96)),
		"header beyond list":    list(28+48, 0xffffffff, 48, make([]byte, 48)),
		"size zero":             list(28+48, 0, 0, make([]byte, 48)),
		"size 15":               list(28+30, 0, 15, make([]byte, 30)),
		"list shorter":          list(27, 0, 48, nil),
		"list cut":              list(28+96, 0, 48, make([]byte, 48)),
		"not a multiple":        list(28+50, 0, 48, make([]byte, 50)),
		"huge":                  list(0xffffffff, 0, 48, make([]byte, 48)),
		"wrong hash size":       list(28+80, 0, 40, make([]byte, 80)),
		"trailing bytes":        append(list(28+48, 0, 48, make([]byte, 48)), 1, 2, 3),
	}
	for name, data := range bad {
		v := Variable{}
		if v.readSignatures(data); v.Doubt == "" || v.Hashes != 0 {
			t.Errorf("%s: accepted with %d hashes", name, v.Hashes)
		}
	}
}

func TestFactsOfEveryLogOfTheCorpusAreBounded(t *testing.T) {
	certificates := 0
	for path, log := range cryptoAgileLogs(t) {
		f := extractFacts(log, func(int) bool { return true })
		for _, v := range f.Keys {
			certificates += len(v.Certificates)
			if v.Doubt != "" {
				t.Errorf("%s: %s: %s", path, v.Name, v.Doubt)
			}
		}
		if events := len(log.Events); len(f.Firmware) > events || len(f.Applications) > events {
			t.Errorf("%s: more facts than events", path)
		}
		if len(log.Events) > 20 && f.SecureBoot == "unknown" {
			t.Errorf("%s: Secure Boot unknown", path)
		}
	}
	if certificates < 20 {
		t.Errorf("only %d Secure Boot certificates found in the corpus", certificates)
	}
}

func TestEveryEventOfTheCorpusIsDescribed(t *testing.T) {
	dir := corpus(t)
	described, covered := 0, 0
	for _, entry := range manifest(t, dir) {
		if entry.Expect == nil || entry.Expect.Err != nil {
			continue
		}
		log, err := ParseEventLog(corpusLog(t, dir, entry.Path))
		if err != nil {
			t.Fatal(err)
		}
		for i := range log.Events {
			text, ok := log.Events[i].Describe()
			if text != clean(text) {
				t.Errorf("%s: event %d: %q", entry.Path, i, text)
			}
			if text != "" {
				described++
			}
			if ok {
				covered++
			}
			if ok && !log.Events[i].Extends() {
				t.Errorf("%s: event %d: a digest covers what was not extended", entry.Path, i)
			}
		}
	}
	if described < 1400 || covered < 1000 {
		t.Errorf("%d events described, %d of them covered by a digest", described, covered)
	}
}

func TestLogIsComparedWithWhatTheTPMHolds(t *testing.T) {
	log, err := ParseEventLog(readFile(t, bootData, "ovmf-uki.eventlog"))
	if err != nil {
		t.Fatal(err)
	}
	replay, err := log.ReplayBank(AlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	compared, err := log.Compare(AlgSHA256, map[int][]byte{4: replay[4], 10: {1}, 13: make([]byte, 32), 7: replay[4]})
	if err != nil || len(compared) != 3 || !compared[0].OK || compared[1].OK || !compared[2].OK {
		t.Errorf("%+v, %v", compared, err)
	}
	if _, err := log.Compare(AlgSHA256, map[int][]byte{4: {1}}); err == nil {
		t.Error("a PCR of one byte is compared")
	}
	if _, err := log.Compare(AlgSHA1, nil); !errors.Is(err, ErrNoBank) {
		t.Errorf("a bank that the log has not: %v", err)
	}
}
