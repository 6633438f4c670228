package chunk_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/update/chunk"
)

// A process that writes images takes an index, whose digest it knows from signed
// metadata, and chunks from one it doesn't trust.
func Example() {
	b, err := chunk.NewBuilder(chunk.SHA512_256, chunk.DefaultSizes())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, part := range []string{"hello, ", "world"} {
		if err := b.Add(chunk.SHA512_256.Sum([]byte(part)), len(part)); err != nil {
			fmt.Println(err)
			return
		}
	}
	built, err := b.Index()
	if err != nil {
		fmt.Println(err)
		return
	}
	index, err := chunk.Parse(built.Encode())
	if err != nil {
		fmt.Println(err)
		return
	}
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	slot, err := os.Create(filepath.Join(dir, "slot"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = slot.Close() }()
	for i, part := range []string{"hello, ", "w0rld"} {
		piece, err := index.Piece(i, []byte(part))
		if err != nil {
			fmt.Println("refused chunk", i)
			continue
		}
		if err := piece.Put(slot); err != nil {
			fmt.Println(err)
		}
	}
	data, _ := os.ReadFile(slot.Name())
	fmt.Printf("%d of %d bytes: %s\n", len(data), index.Size(), data)
	// Output:
	// refused chunk 1
	// 7 of 12 bytes: hello,
}
