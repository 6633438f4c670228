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
// twice, none unknown, nothing behind it. Keys are of a-z, 0-9 and "._-", so
// that none matches a field only when case is ignored. v is unchanged on error
// only as far as encoding/json leaves it; callers throw it away.
func decodeStrict(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("invalid UTF-8")
	}
	tokens := json.NewDecoder(bytes.NewReader(data))
	if err := walkJSON(tokens, 0); err != nil {
		return err
	}
	if _, err := tokens.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the JSON value")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

func walkJSON(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	token, err := dec.Token()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := make(map[string]bool)
	for dec.More() {
		if open == '{' {
			if err := walkKey(dec, seen); err != nil {
				return err
			}
		}
		if err := walkJSON(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

func walkKey(dec *json.Decoder, seen map[string]bool) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	key, ok := token.(string)
	if !ok {
		return errors.New("object key is not a string")
	}
	for _, r := range key {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-' {
			return fmt.Errorf("key %q has other characters than a-z, 0-9, '.', '_', '-'", key)
		}
	}
	if seen[key] {
		return fmt.Errorf("key %q occurs twice", key)
	}
	seen[key] = true
	return nil
}
