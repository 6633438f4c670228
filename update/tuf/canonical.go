package tuf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// decode reads a file into maps, slices, strings, json.Numbers, bools and nils.
// Unknown keys are kept, as section 4 demands; a key twice is refused.
func decode(data []byte) (map[string]any, error) {
	var raw json.RawMessage
	if err := strictjson.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var tree map[string]any
	return tree, dec.Decode(&tree)
}

// canonical appends the canonical form of v (section 4.1, OLPC canonical JSON):
// the bytes that are signed. Keys are sorted, there is no white space, only
// quotation mark and backslash are escaped, and numbers are integers.
func canonical(to []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case map[string]any:
		open := byte('{')
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if to, err = canonical(append(to, open), key); err != nil {
				return nil, err
			}
			if to, err = canonical(append(to, ':'), v[key]); err != nil {
				return nil, err
			}
			open = ','
		}
		return closing(to, open, "{}"), nil
	case []any:
		open := byte('[')
		for _, element := range v {
			if to, err = canonical(append(to, open), element); err != nil {
				return nil, err
			}
			open = ','
		}
		return closing(to, open, "[]"), nil
	case string:
		return canonicalString(to, v)
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != v.String() {
			return nil, fmt.Errorf("number %.30q is no plain 64-bit integer", v.String())
		}
		return append(to, v...), nil
	case bool:
		return strconv.AppendBool(to, v), nil
	}
	return append(to, "null"...), nil
}

// closing ends an object or array; it is empty if its bracket is still to come.
func closing(to []byte, open byte, brackets string) []byte {
	if open != ',' {
		to = append(to, open)
	}
	return append(to, brackets[1])
}

func canonicalString(to []byte, s string) ([]byte, error) {
	// The decoder puts U+FFFD for half a surrogate pair; others put something else.
	if strings.ContainsRune(s, '\uFFFD') {
		return nil, fmt.Errorf("string %.40q holds a replacement character", s)
	}
	to = append(to, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			to = append(to, '\\')
		}
		to = append(to, s[i])
	}
	return append(to, '"'), nil
}
