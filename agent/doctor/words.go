package doctor

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

func size(bytes uint64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func numbers(list []int) string {
	text := make([]string, len(list))
	for i, n := range list {
		text[i] = strconv.Itoa(n)
	}
	return strings.Join(text, ", ")
}
