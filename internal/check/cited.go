package main

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// checkCited looks up every test that a Markdown file names, as in
// tpm/seal.TestAlteredBootStaysShut: a claim whose test has gone is no claim. A
// name without its folder could be any test's, and is a fault.
func checkCited(_ context.Context, root string) (string, error) {
	tests, err := testNames(root)
	if err != nil {
		return "", err
	}
	citation := regexp.MustCompile(`(?:([a-z][\w/-]*)\.)?\b((?:Test|Fuzz)[A-Z]\w*)`)
	var wrong []string
	cited := 0
	err = walk(root, ".md", func(name string, data []byte) error {
		for i, line := range strings.Split(string(data), "\n") {
			for _, m := range citation.FindAllStringSubmatch(line, -1) {
				cited++
				switch {
				case m[1] == "":
					wrong = append(wrong, fmt.Sprintf("%s:%d: %s needs its folder before it, as in tpm/seal.%s", name, i+1, m[2], m[2]))
				case !tests[m[0]]:
					wrong = append(wrong, fmt.Sprintf("%s:%d: there is no test %s in %s", name, i+1, m[2], m[1]))
				}
			}
		}
		return nil
	})
	slices.Sort(wrong)
	if err == nil {
		err = faults(wrong)
	}
	return fmt.Sprintf("%d tests are cited", cited), err
}

// testNames lists the tests of the tree, each as folder.Name.
func testNames(root string) (map[string]bool, error) {
	definition := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	names := make(map[string]bool)
	err := walk(root, "_test.go", func(name string, data []byte) error {
		for _, m := range definition.FindAllStringSubmatch(string(data), -1) {
			names[path.Dir(name)+"."+m[1]] = true
		}
		return nil
	})
	return names, err
}
