package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// decodeStrict decodes one JSON document that has exactly one reading: no key
// twice, none unknown, nothing behind it. Keys are of a-z, 0-9 and "._-", and written
// so, so that none matches a field only when case is ignored. v is unchanged on error
// only as far as encoding/json leaves it; callers throw it away.
func decodeStrict(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("invalid UTF-8")
	}
	if err := checkJSONKeys(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the JSON value")
	}
	return nil
}

// jsonLevel is an object or array that is open.
type jsonLevel struct {
	object bool
	key    bool // the next string is a key
	seen   map[string]struct{}
}

// checkJSONKeys checks keys and depth of a text that is JSON; of any other it says
// something or nothing, since the decoder refuses that. It reads each byte once, in a
// fraction of the time that tokens of encoding/json take.
func checkJSONKeys(data []byte) error {
	var room [4]jsonLevel
	levels := room[:0]
	for i := 0; i < len(data); i++ {
		var in *jsonLevel
		if len(levels) > 0 {
			in = &levels[len(levels)-1]
		}
		switch c := data[i]; {
		case c == '{' || c == '[':
			if len(levels) > maxDepth {
				return fmt.Errorf("nested deeper than %d", maxDepth)
			}
			levels = append(levels, jsonLevel{object: c == '{', key: c == '{'})
		case in != nil && (c == '}' || c == ']'):
			levels = levels[:len(levels)-1]
		case in != nil && c == ',':
			in.key = in.object
		case c == '"':
			begin := i + 1
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if in == nil || !in.key {
				continue
			}
			if err := in.take(data[begin:min(i, len(data))]); err != nil {
				return err
			}
		}
	}
	return nil
}

// take reads a key.
func (l *jsonLevel) take(key []byte) error {
	for _, c := range key {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return fmt.Errorf("key %q has other characters than a-z, 0-9, '.', '_', '-'", key)
		}
	}
	if _, twice := l.seen[string(key)]; twice {
		return fmt.Errorf("key %q occurs twice", key)
	}
	if l.seen == nil {
		l.seen = make(map[string]struct{})
	}
	l.seen[string(key)], l.key = struct{}{}, false
	return nil
}
