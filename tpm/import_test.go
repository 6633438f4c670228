package tpm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamplesUseOnlyWhatOtherModulesCanImport: they show how to use these packages
// from outside, so nothing of internal may be needed.
func TestExamplesUseOnlyWhatOtherModulesCanImport(t *testing.T) {
	files := must(filepath.Glob("*/example_test.go"))(t)
	for _, file := range append(files, "example_test.go") {
		if strings.Contains(string(must(os.ReadFile(file))(t)), "/internal/") {
			t.Errorf("%s needs an internal package", file)
		}
	}
	if len(files) == 0 {
		t.Error("no examples of the packages below")
	}
}
