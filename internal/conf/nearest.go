package conf

import (
	"errors"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// nearest returns the name of known that key was probably meant to be, or "".
func nearest(key string, known []string) string {
	slices.Sort(known) // a stable answer where two are equally near
	best, least := "", 0
	for _, name := range known {
		d := distance(strings.ToLower(key), strings.ToLower(name))
		// The right name in the wrong table is a likely slip, too.
		if last(key) == last(name) {
			d = min(d, 2)
		}
		if d <= max(1, len(name)/3) && (best == "" || d < least) {
			best, least = name, d
		}
	}
	return best
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance counts the single-character edits between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// lineOf finds the line of a key. The decoder knows it but tells only in errors,
// so the value at key is decoded once more, into something that refuses it.
func lineOf(data string, key toml.Key) int {
	var level map[string]toml.Primitive
	md, err := toml.Decode(data, &level)
	if err != nil {
		return 0
	}
	for i, part := range key {
		value, ok := level[part]
		if !ok {
			return 0
		}
		if i == len(key)-1 {
			var parse toml.ParseError
			if errors.As(md.PrimitiveDecode(value, &refuse{}), &parse) {
				return parse.Position.Line
			}
			return 0
		}
		level = tableIn(md, value, key[i+1])
	}
	return 0
}

// tableIn decodes a table or, of a list of tables, the first that has key.
func tableIn(md toml.MetaData, value toml.Primitive, key string) map[string]toml.Primitive {
	var one map[string]toml.Primitive
	if md.PrimitiveDecode(value, &one) == nil && one != nil {
		return one
	}
	var list []map[string]toml.Primitive
	if md.PrimitiveDecode(value, &list) != nil {
		return nil
	}
	for _, table := range list {
		if _, ok := table[key]; ok {
			return table
		}
	}
	return nil
}

type refuse struct{}

// UnmarshalTOML always fails.
func (*refuse) UnmarshalTOML(any) error { return errors.New("refused") }

var _ toml.Unmarshaler = (*refuse)(nil)
