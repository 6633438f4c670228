// Package manual makes man pages and shell completions of a program's verbs.
//
// Its promise: every verb that help lists has its page, and nothing of this is in
// a released binary: only programs built with the tag docgen link it.
package manual

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Write makes the folders man and completion in dir. The pages carry the date of
// SOURCE_DATE_EPOCH.
func Write(root *cobra.Command, dir string) error {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("read SOURCE_DATE_EPOCH: %w", err)
	}
	date := time.Unix(seconds, 0).UTC()
	man, completion := filepath.Join(dir, "man"), filepath.Join(dir, "completion")
	for _, folder := range []string{man, completion} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	root.DisableAutoGenTag = true
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Date: &date, Source: "Gatewarden", Manual: "Gatewarden"}, man); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	for shell, write := range map[string]func(string) error{
		"bash": func(file string) error { return root.GenBashCompletionFileV2(file, true) },
		"fish": func(file string) error { return root.GenFishCompletionFile(file, true) },
		"zsh":  root.GenZshCompletionFile,
	} {
		if err := write(filepath.Join(completion, shell)); err != nil {
			return fmt.Errorf("write completion: %w", err)
		}
	}
	return nil
}
