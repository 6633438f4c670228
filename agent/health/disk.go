package health

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// disk watches the free space where the agent keeps its state.
func disk(folder string) Check {
	return Check{Name: "disk", Every: 5 * time.Minute, Run: func(context.Context) (string, string) {
		var st unix.Statfs_t
		if err := unix.Statfs(folder, &st); err != nil {
			return Unknown, fmt.Sprintf("can't ask for the free space of %s: %v", folder, err)
		}
		if st.Bsize <= 0 {
			return Unknown, fmt.Sprintf("%s reports no block size", folder)
		}
		return judgeDisk(folder, st.Blocks, st.Bavail, st.Files, st.Ffree, uint64(st.Bsize))
	}}
}

// judgeDisk: below 15 % free is a warning, below 5 % critical. Inodes count as
// space does: without one there is no new file. A file system without fixed
// inodes reports 0 of them.
func judgeDisk(folder string, blocks, free, inodes, freeInodes, blockSize uint64) (status, summary string) {
	if blocks == 0 {
		return Unknown, fmt.Sprintf("%s reports no size", folder)
	}
	percent, what := percentOf(free, blocks), "space"
	if inodes > 0 {
		if p := percentOf(freeInodes, inodes); p < percent {
			percent, what = p, "inodes"
		}
	}
	total := float64(blocks) * float64(blockSize) / (1 << 30)
	summary = fmt.Sprintf("%d %% of %s free on the disk of %s (%.1f GiB)", percent, what, folder, total)
	switch {
	case percent < 5:
		return Critical, summary
	case percent < 15:
		return Warning, summary
	}
	return OK, summary
}

func percentOf(part, whole uint64) int {
	return int(float64(part) / float64(whole) * 100)
}
