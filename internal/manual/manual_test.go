package manual_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/gatewarden/gatewarden/internal/manual"
)

func TestEveryVerbHasItsPageAndEveryShellItsCompletion(t *testing.T) {
	run := func(*cobra.Command, []string) {}
	root := &cobra.Command{Use: "prog", Short: "a program", Run: run}
	cert := &cobra.Command{Use: "cert", Short: "certificates", Run: run}
	cert.AddCommand(&cobra.Command{Use: "show", Short: "show the certificate in use", Run: run})
	root.AddCommand(cert, &cobra.Command{Use: "secret", Hidden: true, Run: run})
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := t.TempDir()
	if err := manual.Write(root, dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"man/prog.1": "prog-cert(1)", "man/prog-cert.1": "prog-cert-show(1)", "man/prog-cert-show.1": `"Nov 2023"`,
		"completion/bash": "__complete", "completion/zsh": "#compdef prog", "completion/fish": "complete -c prog",
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, want %q in\n%s", name, err, want, text)
		}
	}
	if pages, err := filepath.Glob(filepath.Join(dir, "man", "*")); err != nil || len(pages) != 3 {
		t.Errorf("pages: %v, %v", pages, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if err := manual.Write(root, dir); err == nil {
		t.Error("pages are written without a date")
	}
}
