package tuf_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/tuf"
	"github.com/gatewarden/gatewarden/update/tuf/fetch"
)

// A device looks for a release, and writes it only where it may be thrown away.
func Example() {
	pinned, err := os.ReadFile("/etc/gatewarden/root.json")
	if err != nil {
		return // not installed here
	}
	mirror := func(folder string) tuf.Fetcher {
		f, err := fetch.New(fetch.Config{
			Base: "https://mirror.example.org/" + folder, Client: &http.Client{}, MinRate: 1 << 10, Window: 30 * time.Second,
		})
		if err != nil {
			fmt.Println(err)
		}
		return f
	}
	client, err := tuf.New(tuf.Config{
		FS: &fsx.FS{}, Dir: "/var/lib/gatewarden/tuf", Root: pinned,
		Metadata: mirror("metadata"), Targets: mirror("targets"), Now: time.Now,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := client.Refresh(ctx); err != nil {
		fmt.Println(err)
		return
	}
	target, err := client.Target(ctx, "releases/gateway/stable.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(target.Path(), target.Length())
	// Output:
}
