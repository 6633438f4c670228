package strictjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

type sample struct {
	Name  string            `json:"name"`
	Inner *inner            `json:"inner,omitempty"`
	Many  []inner           `json:"many,omitempty"`
	Free  map[string]string `json:"free,omitempty"`
}

type inner struct {
	A int `json:"a"`
}

func TestOneReadingOrNone(t *testing.T) {
	good := []string{
		`{"name":"x"}`, `{"name":"x","inner":{"a":1},"many":[{"a":1},{"a":2}],"free":{"K":"v","k":"v"}}`, `{}`,
	}
	for _, in := range good {
		var s sample
		if err := Unmarshal([]byte(in), &s); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
	bad := map[string]string{
		`{"name":"x","name":"y"}`:            "twice",
		`{"Name":"x"}`:                       "unknown key",
		`{"name":"x","extra":1}`:             "unknown key",
		`{"inner":{"a":1,"a":2}}`:            "twice",
		`{"inner":{"A":1}}`:                  "unknown key",
		`{"many":[{"a":1},{"b":2}]}`:         "unknown key",
		`{"free":{"k":"1","k":"2"}}`:         "twice",
		`{"name":"x"} {}`:                    "after",
		`{"name":"x"}x`:                      "after",
		`{"name":`:                           "EOF",
		``:                                   "EOF",
		"{\"name\":\"\xff\"}":                "UTF-8",
		strings.Repeat("[", 40) + `1`:        "deeper",
		`{"name":7}`:                         "cannot unmarshal",
		`{"n\u0061me":"x","name":"y"}`:       "twice",
		`{"free":{"a":"1","\u0061":"2"}}`:    "twice",
		`{"inner":[{"a":1}]}`:                "cannot unmarshal",
		`{"name":"x","inner":{"a":1},"in":}`: "",
	}
	for in, want := range bad {
		s := sample{Name: "before"}
		err := Unmarshal([]byte(in), &s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", in, err, want)
		}
		if s.Name != "before" {
			t.Errorf("%s: target changed by a refused value", in)
		}
	}
}

// TestInformPassesOverUnknownKeysAndNothingElse: what it reads is what Unmarshal
// reads of the same value without them.
func TestInformPassesOverUnknownKeysAndNothingElse(t *testing.T) {
	good := map[string]sample{
		`{"name":"x","extra":{"Name":[1,{"a":2}]}}`:          {Name: "x"},
		`{"extra":1,"name":"x","inner":{"b":7,"a":1}}`:       {Name: "x", Inner: &inner{A: 1}},
		`{"many":[{"a":1,"more":null},{"more":[],"a":2}]}`:   {Many: []inner{{A: 1}, {A: 2}}},
		`{"free":{"K":"v","k":"v"},"other":{"K":"","k":""}}`: {Free: map[string]string{"K": "v", "k": "v"}},
	}
	for in, want := range good {
		var s sample
		if err := Inform([]byte(in), &s); err != nil || !reflect.DeepEqual(s, want) {
			t.Errorf("%s: %+v, %v", in, s, err)
		}
	}
	bad := map[string]string{
		`{"name":"x","Name":"y"}`:                   `unknown key "Name"`,
		`{"name":"x","inner":{"A":1}}`:              `unknown key "A"`,
		`{"many":[{"a":1,"\u0041":2}]}`:             `unknown key "A"`,
		`{"extra":1,"extra":2}`:                     "twice",
		`{"extra":{"a":1,"a":2}}`:                   "twice",
		`{"extra":` + strings.Repeat("[", 40) + `1`: "deeper",
		`{"name":"x","extra":1} {}`:                 "after",
		`{"name":7,"extra":1}`:                      "cannot unmarshal",
		"{\"name\":\"x\",\"extra\":\"\xff\"}":       "UTF-8",
		`{"name":"x","extra":`:                      "EOF",
		`{"name":"y","inne\u0052":1}`:               `unknown key "inneR"`,
	}
	for in, want := range bad {
		s := sample{Name: "before"}
		if err := Inform([]byte(in), &s); err == nil || !strings.Contains(err.Error(), want) || s.Name != "before" {
			t.Errorf("%s: %+v, got %v, want an error with %q", in, s, err, want)
		}
	}
}

func FuzzAcceptedBytesDecodeTheSameAgain(f *testing.F) {
	f.Add([]byte(`{"name":"x","inner":{"a":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second sample
		if Unmarshal(data, &first) != nil {
			return
		}
		again, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(again, &second); err != nil {
			t.Fatalf("%q was accepted, its own encoding %q was not: %v", data, again, err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%q decodes as %+v, then as %+v", data, first, second)
		}
	})
}
