package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// checkLinks looks at every link of every Markdown file that points into the
// tree: the file must exist and, if the link names one, its heading.
func checkLinks(_ context.Context, root string) (string, error) {
	pages := make(map[string]page)
	err := walk(root, ".md", func(name string, data []byte) error {
		pages[name] = readPage(string(data))
		return nil
	})
	if err != nil {
		return "", err
	}
	var dead []string
	n := 0
	for name, p := range pages {
		for _, l := range p.links {
			n++
			if why := deadLink(root, pages, name, l.target); why != "" {
				dead = append(dead, fmt.Sprintf("%s:%d: %s", name, l.line, why))
			}
		}
	}
	slices.Sort(dead)
	return fmt.Sprintf("%d links in %d pages", n, len(pages)), faults(dead)
}

type page struct {
	links   []link
	anchors map[string]bool
}

type link struct {
	target string
	line   int
}

// readPage finds links and headings outside code.
func readPage(text string) page {
	var (
		inline    = regexp.MustCompile(`\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)`)
		reference = regexp.MustCompile(`^\s{0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s+".*")?$`)
		code      = regexp.MustCompile("`[^`]*`")
		named     = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
	)
	p := page{anchors: make(map[string]bool)}
	fenced := false
	for i, line := range strings.Split(text, "\n") {
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "```") || strings.HasPrefix(trimmed, "~~~") {
			fenced = !fenced
			continue
		}
		if fenced {
			continue
		}
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			p.anchor(slug(heading))
		}
		line = code.ReplaceAllString(line, "")
		for _, m := range named.FindAllStringSubmatch(line, -1) {
			p.anchors[m[1]] = true
		}
		for _, m := range append(inline.FindAllStringSubmatch(line, -1), reference.FindAllStringSubmatch(line, -1)...) {
			p.links = append(p.links, link{m[1], i + 1})
		}
	}
	return p
}

// anchor adds a heading; the second of one name gets "-1", and so on.
func (p page) anchor(name string) {
	unique := name
	for i := 1; p.anchors[unique]; i++ {
		unique = fmt.Sprintf("%s-%d", name, i)
	}
	p.anchors[unique] = true
}

// slug makes of a heading the anchor that common renderers make of it.
func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		case r == ' ':
			return '-'
		}
		return -1
	}, strings.TrimSpace(heading))
}

// deadLink returns "" or why target, written in the page called from, is dead.
// Other sites are not asked: a build must not depend on the network.
func deadLink(root string, pages map[string]page, from, target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return fmt.Sprintf("%s is no link: %v", target, err)
	}
	if u.Scheme != "" || u.Host != "" {
		return ""
	}
	to := from
	if u.Path != "" {
		to = path.Join(path.Dir(from), u.Path)
	}
	if to == ".." || strings.HasPrefix(to, "../") || path.IsAbs(u.Path) {
		return target + " leads out of the tree"
	}
	if _, err := os.Stat(filepath.Join(root, to)); err != nil {
		return target + " does not exist"
	}
	if p, ok := pages[to]; ok && u.Fragment != "" && !p.anchors[u.Fragment] {
		return fmt.Sprintf("%s has no heading #%s", to, u.Fragment)
	}
	return ""
}
