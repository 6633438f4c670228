package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// writeManual has the program write its man pages and completions (internal/manual)
// and compresses the pages.
func writeManual(ctx context.Context, s source, program, dir string) error {
	env := []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(s.time.Unix(), 10)}
	if err := goTool(ctx, env, "run", "-tags=docgen", "./cmd/"+program, dir); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(dir, "man", "*.1"))
	if err != nil || len(pages) == 0 {
		return fmt.Errorf("there is no man page in %s", dir)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return fmt.Errorf("read man page: %w", err)
		}
		if err := writeGzip(page+".gz", string(text)); err != nil {
			return err
		}
	}
	return nil
}

// writeGzip writes a file that has neither name nor time in it.
func writeGzip(path, text string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	defer f.Close()
	w, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if _, err := io.Copy(w, strings.NewReader(text)); err != nil {
		return fmt.Errorf("compress %s: %w", filepath.Base(path), err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("compress %s: %w", filepath.Base(path), err)
	}
	return f.Close()
}
