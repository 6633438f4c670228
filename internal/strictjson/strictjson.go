// Package strictjson decodes JSON that somebody may have signed: exactly one
// reading of the bytes exists, or they are refused.
//
// It refuses what encoding/json lets pass: a key twice, a key that only matches
// when upper and lower case are ignored, text behind the value, invalid UTF-8,
// nesting deeper than MaxDepth and, but for Inform, an unknown key.
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
func Unmarshal(data []byte, v any) error { return unmarshal(data, v, false) }

// Inform is Unmarshal for what informs and authorises nothing (docs/adr/034): keys
// that v does not have are passed over, so that a newer peer may say more.
func Inform(data []byte, v any) error { return unmarshal(data, v, true) }

func unmarshal(data []byte, v any, open bool) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return errors.New("strictjson: target is not a pointer")
	}
	if !utf8.Valid(data) {
		return errors.New("invalid UTF-8")
	}
	w := walker{json.NewDecoder(bytes.NewReader(data)), open}
	if err := w.walk(target.Type(), 0); err != nil {
		return err
	}
	if _, err := w.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the JSON value")
	}
	fresh := reflect.New(target.Type().Elem())
	if err := json.Unmarshal(data, fresh.Interface()); err != nil {
		return err
	}
	target.Elem().Set(fresh.Elem())
	return nil
}

type walker struct {
	*json.Decoder
	open bool // unknown keys pass
}

// walk reads one value and checks its keys against t; a nil t checks only for
// keys that occur twice.
func (w walker) walk(t reflect.Type, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	token, err := w.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	switch token {
	case json.Delim('{'):
		return w.walkObject(plain(t), depth)
	case json.Delim('['):
		var elem reflect.Type
		if t = plain(t); t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			elem = t.Elem()
		}
		for w.More() {
			if err := w.walk(elem, depth+1); err != nil {
				return err
			}
		}
		_, err = w.Token()
	}
	return err
}

func (w walker) walkObject(t reflect.Type, depth int) error {
	seen := make(map[string]bool)
	for w.More() {
		token, err := w.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string) // the decoder takes nothing else here
		if seen[key] {
			return fmt.Errorf("key %q occurs twice", key)
		}
		seen[key] = true
		value, err := w.member(t, key)
		if err != nil {
			return err
		}
		if err := w.walk(value, depth+1); err != nil {
			return err
		}
	}
	_, err := w.Token()
	return err
}

// member returns the type of the value that key has in t, nil if t does not say.
func (w walker) member(t reflect.Type, key string) (reflect.Type, error) {
	switch {
	case t == nil:
		return nil, nil
	case t.Kind() == reflect.Map:
		return t.Elem(), nil
	case t.Kind() != reflect.Struct:
		return nil, nil
	}
	name, value := fieldNamed(t, key)
	if name == key || name == "" && w.open {
		return value, nil
	}
	return nil, fmt.Errorf("unknown key %q: a mistake, or made for a newer version than this one", key)
}

// fieldNamed finds the field that encoding/json would choose: case may differ.
func fieldNamed(t reflect.Type, key string) (found string, value reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			if inner, v := fieldNamed(plain(f.Type), key); inner != "" && found != key {
				found, value = inner, v
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		if f.IsExported() && name != "-" && strings.EqualFold(name, key) && found != key {
			found, value = name, f.Type
		}
	}
	return found, value
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
