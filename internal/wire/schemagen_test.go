package wire_test

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// schema is the part of JSON Schema 2020-12 that our messages need.
type schema struct {
	Schema      string             `json:"$schema,omitempty"`
	ID          string             `json:"$id,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        string             `json:"type,omitempty"` // "" is anything
	Const       any                `json:"const,omitempty"`
	Format      string             `json:"format,omitempty"`
	Encoding    string             `json:"contentEncoding,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Names       *schema            `json:"propertyNames,omitempty"`
	Values      *schema            `json:"additionalProperties,omitempty"`
	Nothing     *struct{}          `json:"not,omitempty"` // {"not": {}} accepts no value
}

// schemas makes them from types, with the comments of their source.
type schemas struct {
	t        *testing.T
	open     bool                         // unknown keys are passed over
	comments map[string]map[string]string // package path -> "Type" or "Type.Field" -> comment
}

func newSchemas(t *testing.T, open bool) *schemas {
	return &schemas{t: t, open: open, comments: map[string]map[string]string{}}
}

func (s *schemas) of(t reflect.Type) *schema {
	if t.Kind() == reflect.Pointer {
		return s.of(t.Elem())
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return &schema{Type: "string", Format: "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return &schema{}
	case t == reflect.TypeFor[[]byte]():
		return &schema{Type: "string", Encoding: "base64"}
	case t.Implements(reflect.TypeFor[json.Marshaler]()), t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		if t.Kind() != reflect.Array || t.Len() != 32 {
			s.t.Fatalf("%s encodes itself: say how in schemagen_test.go", t)
		}
		return &schema{Type: "string", Pattern: "^[0-9a-f]{64}$"}
	}
	switch t.Kind() {
	case reflect.String:
		return &schema{Type: "string"}
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return &schema{Type: "integer"}
	case reflect.Slice:
		return &schema{Type: "array", Items: s.of(t.Elem())}
	case reflect.Map:
		m := &schema{Type: "object", Values: s.of(t.Elem())}
		if t.Key().Kind() == reflect.Int {
			m.Names = &schema{Pattern: "^[0-9]+$"}
		}
		return m
	case reflect.Struct:
		return s.object(t)
	}
	s.t.Fatalf("%s has no JSON form here", t)
	return nil
}

func (s *schemas) object(t reflect.Type) *schema {
	o := &schema{
		Type: "object", Title: t.Name(), Description: s.comment(t, t.Name()),
		Properties: map[string]*schema{}, Values: &schema{Nothing: &struct{}{}},
	}
	if s.open {
		o.Values = &schema{}
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			s.t.Fatalf("%s.%s has no name in JSON", t, f.Name)
		}
		p := s.of(f.Type)
		if text := s.comment(t, t.Name()+"."+f.Name); text == "1" && p.Type == "integer" {
			p.Const = 1
		} else if text != "" {
			p.Description = text
		}
		o.Properties[name] = p
		if !strings.Contains(options, "omit") {
			o.Required = append(o.Required, name)
		}
	}
	return o
}

// comment returns what the source says of a type or field.
func (s *schemas) comment(t reflect.Type, name string) string {
	if _, ok := s.comments[t.PkgPath()]; !ok {
		s.comments[t.PkgPath()] = s.read(t.PkgPath())
	}
	return s.comments[t.PkgPath()][name]
}

func (s *schemas) read(path string) map[string]string {
	found := map[string]string{}
	folder := filepath.Join("../..", strings.TrimPrefix(path, "github.com/gatewarden/gatewarden/"))
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("read sources of %s: %v", path, err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				note(found, g)
			}
		}
	}
	return found
}

func note(found map[string]string, g *ast.GenDecl) {
	for _, spec := range g.Specs {
		t := spec.(*ast.TypeSpec)
		found[t.Name.Name] = oneLine(g.Doc, t.Doc)
		body, ok := t.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range body.Fields.List {
			for _, n := range f.Names {
				found[t.Name.Name+"."+n.Name] = oneLine(f.Doc, f.Comment)
			}
		}
	}
}

func oneLine(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if g != nil {
			return strings.Join(strings.Fields(g.Text()), " ")
		}
	}
	return ""
}

// validate checks v, decoded by encoding/json, against s.
func (s *schema) validate(at string, v any) error {
	if s.Nothing != nil {
		return fmt.Errorf("%s: nothing may stand here", at)
	}
	switch s.Type {
	case "":
		return nil
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%s: %v is no boolean", at, v)
		}
	case "integer":
		n, ok := v.(float64)
		if !ok || n != float64(int64(n)) || s.Const != nil && n != s.Const {
			return fmt.Errorf("%s: %v is no such integer", at, v)
		}
	case "string":
		return s.validateString(at, v)
	case "array":
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s: %v is no array", at, v)
		}
		for i, e := range list {
			if err := s.Items.validate(fmt.Sprintf("%s[%d]", at, i), e); err != nil {
				return err
			}
		}
	case "object":
		return s.validateObject(at, v)
	default:
		return fmt.Errorf("%s: unknown type %q", at, s.Type)
	}
	return nil
}

func (s *schema) validateString(at string, v any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("%s: %v is no string", at, v)
	}
	var err error
	switch {
	case s.Format == "date-time":
		_, err = time.Parse(time.RFC3339, text)
	case s.Encoding == "base64":
		_, err = base64.StdEncoding.DecodeString(text)
	}
	if err == nil && s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(text) {
		err = fmt.Errorf("%q does not match %s", text, s.Pattern)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

func (s *schema) validateObject(at string, v any) error {
	object, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: %v is no object", at, v)
	}
	for _, key := range s.Required {
		if _, ok := object[key]; !ok {
			return fmt.Errorf("%s: %s is missing", at, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		value := s.Properties[key]
		if value == nil {
			value = s.Values
		}
		if s.Names != nil && !regexp.MustCompile(s.Names.Pattern).MatchString(key) {
			return fmt.Errorf("%s: a key called %q", at, key)
		}
		if value == nil {
			continue
		}
		if err := value.validate(at+"."+key, object[key]); err != nil {
			return err
		}
	}
	return nil
}
