// Package strictjson decodes JSON that somebody may have signed: exactly one
// reading of the bytes exists, or they are refused.
//
// It refuses what encoding/json lets pass: a key twice, a key that only matches
// when upper and lower case are ignored, an unknown key, text behind the value,
// invalid UTF-8, and nesting deeper than MaxDepth.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// MaxDepth is the deepest nesting of objects and arrays that is accepted.
const MaxDepth = 32

// Unmarshal decodes data into v, a non-nil pointer. v is unchanged on error.
func Unmarshal(data []byte, v any) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return errors.New("strictjson: target is not a pointer")
	}
	if !utf8.Valid(data) {
		return errors.New("invalid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := walk(dec, target.Type(), 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the JSON value")
	}
	fresh := reflect.New(target.Type().Elem())
	if err := json.Unmarshal(data, fresh.Interface()); err != nil {
		return err
	}
	target.Elem().Set(fresh.Elem())
	return nil
}

// walk reads one value and checks its keys against t; a nil t checks only for
// keys that occur twice.
func walk(dec *json.Decoder, t reflect.Type, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	switch token {
	case json.Delim('{'):
		return walkObject(dec, plain(t), depth)
	case json.Delim('['):
		var elem reflect.Type
		if t = plain(t); t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			elem = t.Elem()
		}
		for dec.More() {
			if err := walk(dec, elem, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

func walkObject(dec *json.Decoder, t reflect.Type, depth int) error {
	seen := make(map[string]bool)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok {
			return errors.New("object key is not a string")
		}
		if seen[key] {
			return fmt.Errorf("key %q occurs twice", key)
		}
		seen[key] = true
		value, err := member(t, key)
		if err != nil {
			return err
		}
		if err := walk(dec, value, depth+1); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// member returns the type of the value that key has in t, nil if t does not say.
func member(t reflect.Type, key string) (reflect.Type, error) {
	switch {
	case t == nil:
		return nil, nil
	case t.Kind() == reflect.Map:
		return t.Elem(), nil
	case t.Kind() != reflect.Struct:
		return nil, nil
	}
	if field, ok := fieldNamed(t, key); ok {
		return field, nil
	}
	return nil, fmt.Errorf("unknown key %q", key)
}

func fieldNamed(t reflect.Type, key string) (reflect.Type, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			if inner, ok := fieldNamed(plain(f.Type), key); ok {
				return inner, true
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		if f.IsExported() && name == key && name != "-" {
			return f.Type, true
		}
	}
	return nil, false
}

// plain strips pointers; types that decode themselves are not looked into.
func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() == reflect.Interface {
		return nil
	}
	own := reflect.PointerTo(t)
	if own.Implements(reflect.TypeFor[json.Unmarshaler]()) || own.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil
	}
	return t
}
