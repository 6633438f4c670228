package conf

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"
)

// checkKeys compares every key of the file with the fields of v, exactly (the
// decoder ignores upper and lower case), and the type of its value.
func checkKeys(md toml.MetaData, name, data string, v any) []error {
	root := reflect.TypeOf(v)
	var (
		problems []error
		refused  []toml.Key // keys below one that was refused aren't worth a second sentence
	)
	for _, key := range md.Keys() {
		if below(refused, key) {
			continue
		}
		if len(problems) == maxProblems {
			return append(problems, errors.New("there are more faults in "+name))
		}
		problem := checkKey(md, root, key)
		if problem == "" {
			continue
		}
		refused = append(refused, key)
		problems = append(problems, fmt.Errorf(problem, fmt.Sprintf("`%s` at %s:%d", key, name, lineOf(data, key))))
	}
	return problems
}

// checkKey returns "" or a sentence with one %s for the key and its place.
func checkKey(md toml.MetaData, root reflect.Type, key toml.Key) string {
	t, ok := descend(root, key)
	if !ok {
		if near := nearest(key.String(), names(root, "", 0)); near != "" {
			return "unknown key %s; did you mean `" + near + "`?"
		}
		return "unknown key %s"
	}
	want, found := kindOf(t), md.Type(key...)
	if want == "" || want == found || (want == "Float" && found == "Integer") {
		return ""
	}
	// Every element of an array of tables is listed as a table of that name.
	if want == "ArrayHash" && (found == "Hash" || found == "Array") {
		return ""
	}
	return "key %s: " + phrase(want) + " is wanted, but the value is " + phrase(found)
}

func below(refused []toml.Key, key toml.Key) bool {
	for _, r := range refused {
		if len(key) >= len(r) && toml.Key(key[:len(r)]).String() == r.String() {
			return true
		}
	}
	return false
}

// descend returns the type behind key in t.
func descend(t reflect.Type, key toml.Key) (reflect.Type, bool) {
	for _, part := range key {
		t = element(t)
		switch t.Kind() {
		case reflect.Interface:
			return t, true
		case reflect.Map:
			t = t.Elem()
		case reflect.Struct:
			next, ok := fields(t)[part]
			if !ok || isText(t) {
				return nil, false
			}
			t = next
		default:
			return nil, false
		}
	}
	return t, true
}

// element strips pointers, and slices of tables.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// fields lists the keys of a struct, those of embedded structs included.
func fields(t reflect.Type) map[string]reflect.Type {
	all := make(map[string]reflect.Type)
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			for inner, innerType := range fields(f.Type) {
				all[inner] = innerType
			}
		case name == "":
			all[f.Name] = f.Type
		default:
			all[name] = f.Type
		}
	}
	return all
}

// names lists every key that t knows, with its path.
func names(t reflect.Type, prefix string, depth int) []string {
	t = element(t)
	if t.Kind() != reflect.Struct || isText(t) || depth > maxDepth {
		return nil
	}
	var all []string
	for name, inner := range fields(t) {
		all = append(all, prefix+name)
		all = append(all, names(inner, prefix+name+".", depth+1)...)
	}
	return all
}

const (
	maxDepth    = 8  // of tables within tables
	maxProblems = 10 // told at once
)

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// kindOf names the TOML type that t is written as, "" if several will do.
func kindOf(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if isText(t) {
		return "String"
	}
	switch k := t.Kind(); {
	case k == reflect.String:
		return "String"
	case k == reflect.Bool:
		return "Bool"
	case k >= reflect.Int && k <= reflect.Uint64:
		return "Integer"
	case k == reflect.Float32 || k == reflect.Float64:
		return "Float"
	case k == reflect.Struct || k == reflect.Map:
		return "Hash"
	case k == reflect.Slice && element(t).Kind() == reflect.Struct && !isText(element(t)):
		return "ArrayHash"
	case k == reflect.Slice || k == reflect.Array:
		return "Array"
	}
	return ""
}

func phrase(kind string) string {
	switch kind {
	case "String":
		return "a string (in quotes)"
	case "Bool":
		return "true or false"
	case "Integer":
		return "a whole number"
	case "Float":
		return "a number"
	case "Hash":
		return "a table"
	case "ArrayHash":
		return "a list of tables"
	case "Array":
		return "a list (in square brackets)"
	}
	return "a " + strings.ToLower(kind)
}
