package boot_test

import (
	"fmt"
	"log"
	"os"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/boot"
)

// A machine without a boot loader of its own: the file loader, and FileBoot in the
// part of the firmware.
func Example() {
	folder, err := os.MkdirTemp("", "boot")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := boot.FileInit(folder, boot.SlotA); err != nil {
		log.Fatal(err)
	}
	loader, err := boot.Detect(boot.Deps{FS: &fsx.FS{}, Folder: folder})
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		slot, err := boot.FileBoot(folder)
		if err != nil {
			log.Fatal(err)
		}
		_, trial, err := loader.Booted()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("slot", slot, "on trial:", trial)
		if slot == boot.SlotA {
			if err := loader.TryNext(boot.SlotB); err != nil {
				log.Fatal(err)
			}
		}
	}
	// Output:
	// slot a on trial: false
	// slot b on trial: true
	// slot a on trial: false
}
