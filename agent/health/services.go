package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Limits of what programs may say.
const (
	maxServices = 64  // files, count
	maxService  = 512 // bytes of one file
)

// DefaultServices is where the machine's own programs say how they do.
const DefaultServices = "/run/gatewarden/health"

// services takes in what the machine's own programs say of themselves: one file
// each in folder, named after the program, that holds a status and a sentence. It
// is how a release can be confirmed by what it is for.
func services(folder string) Check {
	return Check{Name: "services", Every: time.Minute, Run: func(context.Context) (string, string) {
		entries, err := os.ReadDir(folder)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
			return OK, "no program reports"
		}
		if err != nil {
			return Unknown, fmt.Sprintf("can't read what programs say: %v", err)
		}
		if len(entries) > maxServices {
			return Unknown, fmt.Sprintf("%s holds %d files, at most %d are read", folder, len(entries), maxServices)
		}
		status, summary := OK, fmt.Sprintf("%d programs say ok", len(entries))
		for _, entry := range entries { // sorted by name
			if now, text := service(filepath.Join(folder, entry.Name())); severity(now) > severity(status) {
				status, summary = now, entry.Name()+": "+text
			}
		}
		return status, summary
	}}
}

// service reads one file. It follows no link and waits for no pipe.
func service(path string) (status, text string) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Unknown, "its file can't be read"
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxService+1))
	if err != nil || len(data) > maxService {
		return Unknown, fmt.Sprintf("its file can't be read, or has more than %d bytes", maxService)
	}
	return judgeService(string(data))
}

// judgeService reads "STATUS sentence".
func judgeService(said string) (status, text string) {
	line, _, _ := strings.Cut(said, "\n")
	word, text, _ := strings.Cut(strings.ToValidUTF8(line, "?"), " ")
	switch word {
	case OK, Warning, Critical:
		return word, text
	}
	return Unknown, fmt.Sprintf("it says %.20q, which is none of ok, warning, critical", word)
}
