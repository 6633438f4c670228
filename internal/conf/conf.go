// Package conf reads configuration files: strict TOML.
//
// Its promise: a file is taken exactly as its author meant it, or refused with
// the line and, for a misspelt key, the nearest name that exists. Nothing in a
// file is ignored.
package conf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// MaxFile is the largest configuration file that is read, in bytes.
const MaxFile = 1 << 20

// Load decodes the file at path into v, a pointer to a struct that holds the
// defaults. v's content is undefined on error. A missing file is an error that
// wraps fs.ErrNotExist.
func Load(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if len(data) > MaxFile {
		return fmt.Errorf("read configuration: %s is larger than %d bytes", path, MaxFile)
	}
	return Decode(data, filepath.Base(path), v)
}

// Decode decodes data into v as Load does; name stands for the file in errors.
func Decode(data []byte, name string, v any) error {
	md, err := toml.Decode(string(data), v)
	if err != nil && len(md.Keys()) == 0 {
		return explain(name, err)
	}
	// Key by key before err: a sentence about the key beats the decoder's.
	if problems := checkKeys(md, name, string(data), v); len(problems) > 0 {
		return errors.Join(problems...)
	}
	return explain(name, err)
}

// explain turns a decoder's error into "key at file:line: what".
func explain(name string, err error) error {
	if err == nil {
		return nil
	}
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "toml: "))
	}
	where := fmt.Sprintf("%s:%d", name, parse.Position.Line)
	if parse.LastKey != "" {
		return fmt.Errorf("key `%s` at %s: %s", parse.LastKey, where, parse.Message)
	}
	return fmt.Errorf("%s: %s", where, parse.Message)
}
