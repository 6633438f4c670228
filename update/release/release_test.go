package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

const good = `{
  "v": 1, "product": "edge", "channel": "stable", "version": "2.1.0", "epoch": 2,
  "hardware": ["Acme G1", "Acme G2"],
  "images": [{"slot": "rootfs", "name": "edge/2.1.0/rootfs.img", "size": 268435456, "sha256": "` + digest + `", "index": "edge/2.1.0/rootfs.caibx"}],
  "min_source_version": "1.9.0",
  "confirm": {"checks": [{"check": "disk", "within_seconds": 60}], "link": true, "verdict": true, "timeout_seconds": 600},
  "deadline": "2026-12-01T00:00:00Z",
  "pcr_policies": [
    {"epoch": 1, "phases": "sysinit:ready", "pcrs": [4, 11, 12, 13], "key": "` + digest + `", "policy": "` + digest + `", "signature": "AA=="},
    {"epoch": 2, "phases": "sysinit:ready", "pcrs": [11, 12, 13], "key": "` + digest + `", "policy": "` + digest + `", "signature": "AA=="}
  ],
  "reference": {"product": "edge"},
  "notes": "quicker start"
}`

func TestAGoodReleaseIsReadWhole(t *testing.T) {
	r, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if r.Name() != "edge 2.1.0 (stable)" || r.Images[0].SHA256.String() != digest || r.PCRPolicies[0].PCRs[0] != 4 || r.Deadline.Year() != 2026 {
		t.Errorf("got %+v", r)
	}
}

func TestWrongReleasesAreRefusedWithTheKey(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"other format":               {`"v": 1`, `"v": 2`, "v is 2"},
		"unknown key":                {`"v": 1`, `"v": 1, "vv": 1`, `unknown key "vv"`},
		"key twice":                  {`"v": 1`, `"v": 1, "v": 1`, `"v" occurs twice`},
		"key in other case":          {`"product"`, `"Product"`, `unknown key "Product"`},
		"product with a slash":       {`"edge",`, `"../edge",`, "product is"},
		"no channel":                 {`"stable"`, `""`, "channel is"},
		"no version":                 {`"2.1.0"`, `"2.1"`, "version:"},
		"epoch 0":                    {`"epoch": 2,`, `"epoch": 0,`, "epoch is 0"},
		"epoch too large":            {`"epoch": 2,`, `"epoch": 99999999,`, "epoch is 99999999"},
		"negative epoch":             {`"epoch": 2,`, `"epoch": -1,`, "epoch"},
		"no hardware":                {`["Acme G1", "Acme G2"]`, `[]`, "hardware names 0"},
		"hardware twice":             {`"Acme G2"`, `"Acme G1"`, "twice"},
		"hardware with control":      {`"Acme G2"`, `"Acme\u0000G2"`, "hardware[1]"},
		"no images":                  {`[{"slot": "rootfs", "name": "edge/2.1.0/rootfs.img", "size": 268435456, "sha256": "` + digest + `", "index": "edge/2.1.0/rootfs.caibx"}]`, `[]`, "images holds 0"},
		"path traversal":             {`edge/2.1.0/rootfs.img`, `edge/../rootfs.img`, "images[0].name"},
		"absolute path":              {`edge/2.1.0/rootfs.img`, `/edge/rootfs.img`, "images[0].name"},
		"hidden file":                {`edge/2.1.0/rootfs.img`, `edge/.rootfs.img`, "images[0].name"},
		"path with a NUL":            {`edge/2.1.0/rootfs.img`, `edge/\u0000rootfs.img`, "images[0].name"},
		"index of another kind":      {`rootfs.caibx`, `rootfs.tar`, "images[0].index"},
		"size 0":                     {`268435456`, `0`, "images[0].size"},
		"negative size":              {`268435456`, `-1`, "images[0].size"},
		"size beyond the limit":      {`268435456`, `1099511627777`, "images[0].size"},
		"size beyond 2^63":           {`268435456`, `9223372036854775808`, "size"},
		"digest in capitals":         {`"sha256": "` + digest, `"sha256": "` + strings.ToUpper(digest), "64 lower-case hex"},
		"digest too short":           {`"sha256": "` + digest, `"sha256": "` + digest[2:], "64 lower-case hex"},
		"digest too long":            {`"sha256": "` + digest, `"sha256": "` + digest + "00", "64 lower-case hex"},
		"no digest":                  {`"sha256": "` + digest + `", `, ``, "images[0].sha256 is missing"},
		"source above version":       {`"1.9.0"`, `"2.1.1"`, "no device could install it"},
		"no timeout":                 {`, "timeout_seconds": 600`, ``, "timeout_seconds is 0"},
		"check after the timeout":    {`"within_seconds": 60`, `"within_seconds": 601`, "confirm.checks[0].within_seconds"},
		"check without name":         {`"check": "disk"`, `"check": ""`, "confirm.checks[0].check"},
		"deadline that is no time":   {`"2026-12-01T00:00:00Z"`, `"tomorrow"`, "parse release"},
		"PCR 11 alone":               {`[11, 12, 13]`, `[11]`, "pcr_policies[1]: pcrs [11] lack 12"},
		"PCR 24":                     {`[11, 12, 13]`, `[11, 12, 13, 24]`, "ascending"},
		"PCR twice":                  {`[11, 12, 13]`, `[11, 11, 12, 13]`, "ascending"},
		"policy for an epoch ahead":  {`"epoch": 1, "phases"`, `"epoch": 3, "phases"`, "pcr_policies[0]: epoch is 3"},
		"policies skip an epoch":     {`"epoch": 1, "phases"`, `"epoch": 2, "phases"`, "cover 1 of the epochs 1 to 2"},
		"policy that opens at power": {`"sysinit:ready", "pcrs": [4`, `"sysinit:ready:shutdown", "pcrs": [4`, "nothing may open in shutdown"},
		"unknown phase":              {`"sysinit:ready", "pcrs": [4`, `"sysinit:", "pcrs": [4`, "no boot phase"},
		"policy without signature":   {`"signature": "AA=="`, `"signature": ""`, "signature has 0 bytes"},
		"reference is a text":        {`{"product": "edge"}`, `"edge"`, "reference is neither"},
		"image for a third slot":     {`"slot": "rootfs"`, `"slot": "rootfs", "for": "c"`, "images[0].for is"},
		"image for one slot only":    {`"slot": "rootfs"`, `"slot": "rootfs", "for": "a"`, "images of kind rootfs"},
		"text behind":                {"\"quicker start\"\n}", "\"quicker start\"\n} x", "parse release"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good {
				t.Fatal("the case changes nothing")
			}
			if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ...%s...", err, c.want)
			}
		})
	}
}

// bootFor is an image of kind boot for a slot, behind others.
func bootFor(slot string) string {
	return `, {"slot": "boot", "for": "` + slot + `", "name": "boot-` + slot + `.efi", "size": 1, "sha256": "` + digest + `", "index": "boot-` + slot + `.caibx"}`
}

func withImages(more ...string) []byte {
	return []byte(strings.Replace(good, `rootfs.caibx"}`, `rootfs.caibx"}`+strings.Join(more, ""), 1))
}

func TestAKindHasOneImageOrOneForEachSlot(t *testing.T) {
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		r, err := Parse(withImages(bootFor(order[0]), bootFor(order[1])))
		if err != nil {
			t.Fatal(err)
		}
		for _, slot := range []string{"a", "b"} {
			var names []string
			for _, image := range r.Images {
				if image.Fits(slot) {
					names = append(names, image.Name)
				}
			}
			if got := strings.Join(names, " "); got != "edge/2.1.0/rootfs.img boot-"+slot+".efi" {
				t.Errorf("slot %s gets %s", slot, got)
			}
		}
	}
	for _, wrong := range [][]string{{"a"}, {"b"}, {"a", "a"}, {"b", "b"}, {""}, {"", ""}, {"a", ""}, {"", "b"}, {"a", "b", ""}, {"a", "b", "a"}} {
		var more []string
		for _, slot := range wrong {
			more = append(more, bootFor(slot))
		}
		_, err := Parse(withImages(more...))
		if alone := len(wrong) == 1 && wrong[0] == ""; (err == nil) != alone {
			t.Errorf("images for %q: %v", wrong, err)
		}
	}
}

// What was signed before images were for slots reads and is written as ever.
func TestAnImageForEitherSlotSaysNothingOfSlots(t *testing.T) {
	r, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r.Images[0])
	if err != nil || strings.Contains(string(text), "for") || !r.Images[0].Fits("a") || !r.Images[0].Fits("b") {
		t.Errorf("%s (%v)", text, err)
	}
}

// Lengths are signed, so none is cut to 32 bits on its way (CVE-2026-34155).
func TestSizesAround2To31And2To32AreKept(t *testing.T) {
	for _, size := range []string{"2147483647", "2147483648", "4294967295", "4294967296", "4294967297"} {
		r, err := Parse([]byte(strings.Replace(good, "268435456", size, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(r.Images[0].Size); err != nil || string(got) != size {
			t.Errorf("%s became %s (%v)", size, got, err)
		}
	}
}

func TestHugeReleaseIsRefusedBeforeItIsRead(t *testing.T) {
	if _, err := Parse(bytes.Repeat([]byte("["), MaxRelease+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyTheRightDeviceMayInstall(t *testing.T) {
	r, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	fits := Device{Product: "edge", Channel: "stable", Hardware: "Acme G2", Version: "2.0.0", Epoch: 2}
	for rule, change := range map[string]func(*Device){
		"":          func(*Device) {},
		"product":   func(d *Device) { d.Product = "core" },
		"channel":   func(d *Device) { d.Channel = "beta" },
		"hardware":  func(d *Device) { d.Hardware = "acme g2" },
		"epoch":     func(d *Device) { d.Epoch = 3 },
		"installed": func(d *Device) { d.Version = "2.1.0" },
		"version":   func(d *Device) { d.Version = "2.1.1-rc.1" },
		"source":    func(d *Device) { d.Version = "1.9.0-rc.1" },
	} {
		d := fits
		change(&d)
		err := r.Applies(d)
		var refusal *Refusal
		if rule == "" && err != nil || rule != "" && (!errors.As(err, &refusal) || refusal.Rule != rule) {
			t.Errorf("%q: got %v", rule, err)
		}
	}
	fits.Version = "garbage"
	if err := r.Applies(fits); err == nil {
		t.Error("a device with an unreadable version may install")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add(withImages(bootFor("a"), bootFor("b")))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("what was read can't be read again: %v\n%s", err, text)
		}
		twice, err := json.Marshal(again)
		if err != nil || !bytes.Equal(text, twice) {
			t.Fatalf("round trip (%v):\n%s\n%s", err, text, twice)
		}
	})
}
