package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
)

// Ceilings, in lines.
const (
	MaxFile     = 500
	MaxFunction = 60
)

// Sizes finds files, and functions outside tests, above their ceiling.
func Sizes(t *Tree) []string {
	var faults []string
	for _, f := range t.files() {
		if f.Lines > MaxFile {
			faults = append(faults, fmt.Sprintf("%s: %d lines, the ceiling is %d", f.Path, f.Lines, MaxFile))
		}
		for _, d := range f.Syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || f.Test {
				continue
			}
			if n := t.line(fn.End()) - t.line(fn.Pos()) + 1; n > MaxFunction {
				faults = append(faults, fmt.Sprintf("%s:%d: %s has %d lines, the ceiling is %d", f.Path, t.line(fn.Pos()), fn.Name.Name, n, MaxFunction))
			}
		}
	}
	return faults
}

// Style finds, outside tests: init functions, panics, the global logger,
// package-level state, and packages without a doc comment.
func Style(t *Tree) []string {
	var faults []string
	for _, p := range t.Packages {
		if !p.documented() {
			faults = append(faults, p.Path+": no package comment; it should be the package's promise")
		}
		vars := p.variables()
		for _, f := range p.Files {
			if f.Test {
				continue
			}
			say := func(pos token.Pos, text string) {
				faults = append(faults, fmt.Sprintf("%s:%d: %s", f.Path, t.line(pos), text))
			}
			declarations(f, say)
			ast.Inspect(f.Syntax, func(n ast.Node) bool { statement(n, vars, say); return true })
		}
	}
	return faults
}

func (t *Tree) files() []*File {
	var all []*File
	for _, p := range t.Packages {
		all = append(all, p.Files...)
	}
	return all
}

func (p *Package) documented() bool {
	onlyTests := true
	for _, f := range p.Files {
		onlyTests = onlyTests && f.Test
		if f.Syntax.Doc != nil && len(strings.Fields(f.Syntax.Doc.Text())) > 3 {
			return true
		}
	}
	return onlyTests
}

// variables returns the package-level variables, the blank one left out.
func (p *Package) variables() map[string]*ast.ValueSpec {
	all := make(map[string]*ast.ValueSpec)
	for _, f := range p.Files {
		if f.Test {
			continue
		}
		for _, spec := range packageVars(f) {
			for _, name := range spec.Names {
				if name.Name != "_" {
					all[name.Name] = spec
				}
			}
		}
	}
	return all
}

func packageVars(f *File) []*ast.ValueSpec {
	var all []*ast.ValueSpec
	for _, d := range f.Syntax.Decls {
		gen, ok := d.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR || embedded(gen.Doc) {
			continue
		}
		for _, s := range gen.Specs {
			if spec, ok := s.(*ast.ValueSpec); ok && !embedded(spec.Doc) {
				all = append(all, spec)
			}
		}
	}
	return all
}

// embedded says whether the compiler fills the variable from files.
func embedded(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	for _, c := range doc.List {
		if strings.HasPrefix(c.Text, "//go:embed ") {
			return true
		}
	}
	return false
}

func declarations(f *File, say func(token.Pos, string)) {
	for _, d := range f.Syntax.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			say(fn.Pos(), "func init runs unseen; call it from where it is needed")
		}
	}
	for _, spec := range packageVars(f) {
		if len(spec.Values) == 0 && spec.Names[0].Name != "_" {
			say(spec.Pos(), spec.Names[0].Name+" is package state: a variable without a value is there to be changed")
		}
	}
}

// statement judges one node of a file.
func statement(n ast.Node, vars map[string]*ast.ValueSpec, say func(token.Pos, string)) {
	switch n := n.(type) {
	case *ast.CallExpr:
		if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "panic" && name.Obj == nil {
			say(n.Pos(), "panic; return an error")
		}
	case *ast.SelectorExpr:
		if pkg, ok := n.X.(*ast.Ident); ok && pkg.Obj == nil && pkg.Name == "slog" && globalLog(n.Sel.Name) {
			say(n.Pos(), "slog."+n.Sel.Name+" is the global logger; pass a *slog.Logger in")
		}
	case *ast.AssignStmt:
		if n.Tok == token.DEFINE {
			return
		}
		for _, left := range n.Lhs {
			assigned(left, vars, say)
		}
	case *ast.IncDecStmt:
		assigned(n.X, vars, say)
	}
}

func globalLog(name string) bool {
	switch name {
	case "Debug", "Info", "Warn", "Error", "Log", "LogAttrs", "Default", "SetDefault",
		"DebugContext", "InfoContext", "WarnContext", "ErrorContext", "With":
		return true
	}
	return false
}

// assigned reports an assignment to a package-level variable or a part of it.
func assigned(left ast.Expr, vars map[string]*ast.ValueSpec, say func(token.Pos, string)) {
	for {
		switch l := left.(type) {
		case *ast.IndexExpr:
			left = l.X
		case *ast.SelectorExpr:
			left = l.X
		case *ast.StarExpr:
			left = l.X
		case *ast.ParenExpr:
			left = l.X
		case *ast.Ident:
			spec, known := vars[l.Name]
			// A local variable of the same name has an object of its own.
			if known && (l.Obj == nil || l.Obj.Decl == spec) {
				say(l.Pos(), l.Name+" is package state: it is changed here")
			}
			return
		default:
			return
		}
	}
}
