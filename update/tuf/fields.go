package tuf

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// fields reads the members of a JSON object by their exact keys. All fields of
// one file share err, which keeps the first fault, so that a reader is a list of
// what it reads and looks at err once.
type fields struct {
	members map[string]any
	at      string
	err     *error
}

func (f fields) fault(key, format string, args ...any) {
	if *f.err == nil {
		*f.err = fmt.Errorf("%.200s: %s", f.at+"."+key, fmt.Sprintf(format, args...))
	}
}

func (f fields) has(key string) bool {
	_, ok := f.members[key]
	return ok
}

func (f fields) text(key string) string {
	s, ok := f.members[key].(string)
	if !ok {
		f.fault(key, "is no string")
	}
	return s
}

// flag reads a bool that may be absent: false then.
func (f fields) flag(key string) bool {
	b, ok := f.members[key].(bool)
	if !ok && f.has(key) {
		f.fault(key, "is no boolean")
	}
	return b
}

// integer reads an integer from least up.
func (f fields) integer(key string, least int64) int64 {
	number, _ := f.members[key].(json.Number)
	n, err := strconv.ParseInt(number.String(), 10, 64)
	if err != nil || n < least {
		f.fault(key, "is no integer from %d up", least)
	}
	return n
}

func (f fields) object(key string) fields { return f.child(key, f.members[key]) }

func (f fields) child(key string, value any) fields {
	members, ok := value.(map[string]any)
	if !ok {
		f.fault(key, "is no object")
	}
	return fields{members: members, at: f.at + "." + key, err: f.err}
}

// objects reads an array of at most limit objects.
func (f fields) objects(key string, limit int) []fields {
	var all []fields
	for i, element := range f.list(key, limit) {
		all = append(all, f.child(key+"["+strconv.Itoa(i)+"]", element))
	}
	return all
}

// texts reads an array of at most limit strings, none of them twice.
func (f fields) texts(key string, limit int) []string {
	var all []string
	seen := make(map[string]bool)
	for i, element := range f.list(key, limit) {
		s, ok := element.(string)
		if !ok || seen[s] {
			f.fault(key, "element %d is no string, or there a second time", i)
		}
		seen[s] = true
		all = append(all, s)
	}
	return all
}

func (f fields) list(key string, limit int) []any {
	list, ok := f.members[key].([]any)
	if !ok || len(list) > limit {
		f.fault(key, "is no array of at most %d elements", limit)
		return nil
	}
	return list
}
