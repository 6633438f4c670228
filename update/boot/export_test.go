package boot

import "github.com/gatewarden/gatewarden/internal/fsx"

// BootWith is FileBoot with a fault seam.
func BootWith(fs *fsx.FS, folder string) (string, error) {
	return newFile(Deps{FS: fs, Folder: folder}).boot()
}

func CompareVersions(a, b string) int { return compareVersions(a, b) }
