package attest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestJSONHasOneReadingOrIsRefused(t *testing.T) {
	type inner struct {
		A string `json:"a"`
	}
	type outer struct {
		A string  `json:"a"`
		B inner   `json:"b"`
		C []inner `json:"c"`
	}
	for text, want := range map[string]string{
		`{"a":"x","b":{"a":"y"},"c":[{"a":"z"},{"a":"a"}]}`: "",
		`{"a":"\"a\":1,{[","c":[]}`:                         "",
		` {"a" : "x\\" , "b":{} } `:                         "",
		`{"a":"x","a":"y"}`:                                 `key "a" occurs twice`,
		`{"b":{"a":"x","a":"y"}}`:                           `key "a" occurs twice`,
		`{"c":[{"a":"x"},{"a":"x","a":"y"}]}`:               `key "a" occurs twice`,
		`{"a":"x","\u0061":"y"}`:                            "other characters",
		`{"A":"x"}`:                                         "other characters",
		`{"d":"x"}`:                                         "unknown field",
		`{"a":"x"}{}`:                                       "text after the JSON value",
		`{"a":"x"}]`:                                        "text after the JSON value",
		`{"a":"x"`:                                          "unexpected EOF",
		`{"a":"x`:                                           "unexpected EOF",
		`{"a":"x\`:                                          "unexpected EOF",
		`{"a","x"}`:                                         "invalid character",
		``:                                                  "EOF",
		"{\"a\":\"\xff\"}":                                  "invalid UTF-8",
		`{"c":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`: "nested deeper than 16",
	} {
		var v outer
		if err := decodeStrict([]byte(text), &v); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// Property: what is accepted has no key twice, by the tokens of encoding/json.
func FuzzStrictJSON(f *testing.F) {
	f.Add([]byte(`{"a":"\"","b":[{"a":1},{"a":[]}],"c":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		if decodeStrict(data, &v) != nil {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		var walk func()
		walk = func() {
			token, err := dec.Token()
			if err != nil {
				t.Fatal(err)
			}
			open, ok := token.(json.Delim)
			if !ok {
				return
			}
			seen := make(map[string]bool)
			for dec.More() {
				if open == '{' {
					key, err := dec.Token()
					if err != nil || seen[key.(string)] {
						t.Fatalf("key %v twice in %s, %v", key, data, err)
					}
					seen[key.(string)] = true
				}
				walk()
			}
			if _, err := dec.Token(); err != nil {
				t.Fatal(err)
			}
		}
		walk()
	})
}
