// Package archtest holds the shape of the source tree: who may import whom, what
// no package may do, and how long things may get.
//
// Its promise: the rules are read off the files themselves, all of them; a folder
// that could not be read is an error, never a package without faults.
package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Tree is a module's source.
type Tree struct {
	Module   string // module path
	Fset     *token.FileSet
	Packages []*Package // in the order of their paths
}

// Package is one folder with Go files.
type Package struct {
	Path  string // folder below the module's root, "agent/health"; "." for the root
	Name  string
	Files []*File // test files included
}

// File is one Go file. Build constraints are not looked at: a rule holds on
// every system.
type File struct {
	Path    string // below the module's root
	Test    bool   // named *_test.go
	Lines   int
	Imports []Import
	Syntax  *ast.File
}

// Import is one import of a file.
type Import struct {
	Path string
	Line int
}

// Read parses all Go files of the module whose go.mod lies in root. Folders that
// the go command ignores, and modules inside, are left out.
func Read(root string) (*Tree, error) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	first, _, _ := strings.Cut(string(mod), "\n")
	module, ok := strings.CutPrefix(first, "module ")
	if !ok {
		return nil, fmt.Errorf("read module: %s/go.mod does not begin with its module line", root)
	}
	tree := &Tree{Module: strings.TrimSpace(module), Fset: token.NewFileSet()}
	return tree, tree.readFolder(root, ".")
}

func (t *Tree) readFolder(root, folder string) error {
	entries, err := os.ReadDir(filepath.Join(root, folder))
	if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	p := &Package{Path: folder}
	at := len(t.Packages)
	for _, entry := range entries {
		name := path.Join(folder, entry.Name())
		switch {
		case entry.IsDir():
			if ignored(root, name) {
				continue
			}
			if err := t.readFolder(root, name); err != nil {
				return err
			}
		case strings.HasSuffix(name, ".go"):
			file, err := t.readFile(root, name)
			if err != nil {
				return err
			}
			p.add(file)
		}
	}
	if len(p.Files) > 0 { // before what lies below it
		t.Packages = append(t.Packages[:at], append([]*Package{p}, t.Packages[at:]...)...)
	}
	return nil
}

func (p *Package) add(f *File) {
	p.Files = append(p.Files, f)
	if !f.Test || p.Name == "" {
		p.Name = f.Syntax.Name.Name
	}
}

// ignored says which folders the go command does not read.
func ignored(root, folder string) bool {
	name := path.Base(folder)
	if name[0] == '.' || name[0] == '_' || name == "testdata" || name == "vendor" {
		return true
	}
	_, err := os.Stat(filepath.Join(root, folder, "go.mod"))
	return err == nil
}

func (t *Tree) readFile(root, name string) (*File, error) {
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	syntax, err := parser.ParseFile(t.Fset, name, data, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("parse source: %w", err)
	}
	f := &File{Path: name, Test: strings.HasSuffix(name, "_test.go"), Lines: bytes.Count(data, []byte("\n")), Syntax: syntax}
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("parse import of %s: %w", name, err)
		}
		f.Imports = append(f.Imports, Import{Path: imported, Line: t.line(spec.Pos())})
	}
	return f, nil
}

func (t *Tree) line(pos token.Pos) int { return t.Fset.Position(pos).Line }

// own returns the folder of an import path of this module.
func (t *Tree) own(imported string) (folder string, ok bool) {
	if imported == t.Module {
		return ".", true
	}
	return strings.CutPrefix(imported, t.Module+"/")
}

// Package returns the package in folder, nil if there is none.
func (t *Tree) Package(folder string) *Package {
	for _, p := range t.Packages {
		if p.Path == folder {
			return p
		}
	}
	return nil
}
