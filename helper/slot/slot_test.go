package slot

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/release"
)

const size = 4 << 10 // of a chunk

// noise is chunks of random bytes, each named by a letter; '0' is zeros.
func noise(letters string) []byte {
	var all []byte
	for _, letter := range []byte(letters) {
		data := make([]byte, size)
		if letter != '0' {
			_, _ = rand.NewChaCha8([32]byte{letter}).Read(data)
		}
		all = append(all, data...)
	}
	return all
}

func index(t testing.TB, algorithm chunk.Algorithm, data []byte) *chunk.Index {
	t.Helper()
	b, err := chunk.NewBuilder(algorithm, chunk.Sizes{Min: 1, Avg: size, Max: size})
	must(t, err)
	for part := range slices.Chunk(data, size) {
		must(t, b.Add(algorithm.Sum(part), len(part)))
	}
	ix, err := b.Index()
	must(t, err)
	return ix
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newFolder(t testing.TB) Folder {
	t.Helper()
	dir := t.TempDir()
	for _, slot := range []string{"slot-a", "slot-b"} {
		must(t, os.Mkdir(filepath.Join(dir, slot), 0o755))
	}
	return Folder{FS: &fsx.FS{}, Path: dir}
}

func about(data []byte) release.Image {
	return release.Image{Slot: "rootfs", Size: int64(len(data)), SHA256: sha256.Sum256(data)}
}

// open opens slot b for data, with its index.
func open(t testing.TB, f Folder, data []byte) (*Image, *chunk.Index) {
	t.Helper()
	m, err := f.Open("b", "a", about(data))
	must(t, err)
	t.Cleanup(func() { m.Close() })
	ix := index(t, chunk.SHA512_256, data)
	must(t, m.Index(ix.Encode()))
	return m, ix
}

func quiet(int64) error { return nil }

// missing reads the numbers out of Seed's answer.
func missing(t testing.TB, m *Image, running []byte) []int {
	t.Helper()
	bits, err := m.Seed(running, quiet)
	must(t, err)
	var all []int
	for n := range 8 * len(bits) {
		if bits[n/8]>>(n%8)&1 == 1 {
			all = append(all, n)
		}
	}
	return all
}

func wantRule(t testing.TB, err error, rule string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Rule != rule {
		t.Errorf("error is %v, want a refusal by %s", err, rule)
	}
}

func TestEqualChunksAreAskedForOnce(t *testing.T) {
	f := newFolder(t)
	data := noise("ABAC0ABBD0")
	m, _ := open(t, f, data)
	asked := missing(t, m, nil)
	if !slices.Equal(asked, []int{0, 1, 3, 8}) { // zeros are there: a new file has holes
		t.Errorf("asked for %v", asked)
	}
	for _, n := range asked {
		must(t, m.Chunk(n, data[n*size:][:size]))
	}
	must(t, m.Whole(quiet))
	if got, err := os.ReadFile(f.image("b", "rootfs")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the slot is not the image: %v", err)
	}
}

func TestChunksComeFromAnywhereBeforeTheyAreAskedFor(t *testing.T) {
	f := newFolder(t)
	running := noise("XYZA")
	must(t, os.WriteFile(f.image("a", "rootfs"), running, 0o600))
	must(t, os.WriteFile(f.image("b", "rootfs"), noise("QBQQQ"), 0o600)) // B lies in its place
	data := noise("ABCZB")
	m, _ := open(t, f, data)
	asked := missing(t, m, index(t, chunk.SHA512_256, running).Encode())
	if !slices.Equal(asked, []int{2}) { // A and Z run, the second B is copied from the first
		t.Errorf("asked for %v", asked)
	}
	must(t, m.Chunk(2, noise("C")))
	must(t, m.Whole(quiet))
}

// The agent's word about the running slot counts for nothing.
func TestLyingIndexOfTheRunningSlotGainsNothing(t *testing.T) {
	f := newFolder(t)
	must(t, os.WriteFile(f.image("a", "rootfs"), noise("XX"), 0o600))
	data := noise("AB")
	for name, lie := range map[string][]byte{
		"other bytes":     index(t, chunk.SHA512_256, data).Encode(),
		"beyond the end":  index(t, chunk.SHA512_256, noise("CDEFGHIJAB")).Encode(),
		"other algorithm": index(t, chunk.SHA256, data).Encode(),
	} {
		m, _ := open(t, f, data)
		if asked := missing(t, m, lie); len(asked) != 2 {
			t.Errorf("%s: asked for %v", name, asked)
		}
		if got, err := os.ReadFile(f.image("b", "rootfs")); err != nil || !bytes.Equal(got, make([]byte, len(data))) {
			t.Errorf("%s: something was written, %v", name, err)
		}
	}
	m, _ := open(t, f, data)
	_, err := m.Seed([]byte("no index"), quiet)
	wantRule(t, err, "index")
}

func TestStepsOutOfOrderAreRefused(t *testing.T) {
	f := newFolder(t)
	data := noise("AB")
	m, err := f.Open("b", "a", about(data))
	must(t, err)
	defer m.Close()
	_, err = m.Seed(nil, quiet)
	wantRule(t, err, "index")
	wantRule(t, m.Chunk(0, noise("A")), "index")
	wantRule(t, m.Whole(quiet), "incomplete")
	wantRule(t, m.Index([]byte("no index")), "index")
	wantRule(t, m.Index(index(t, chunk.SHA512_256, noise("ABC")).Encode()), "index")
	must(t, m.Index(index(t, chunk.SHA512_256, data).Encode()))
	must(t, m.Chunk(0, noise("A")))
	wantRule(t, m.Whole(quiet), "incomplete")
	must(t, m.Index(index(t, chunk.SHA512_256, data).Encode())) // begins anew
	wantRule(t, m.Whole(quiet), "incomplete")
}

func TestChunkIsWrittenInAllItsPlacesWhicheverIsNamed(t *testing.T) {
	for n := range 3 {
		f := newFolder(t)
		m, _ := open(t, f, noise("AAA"))
		must(t, m.Chunk(n, noise("A")))
		must(t, m.Whole(quiet))
	}
}

// A file that was longer than the image ends with it: nothing unsigned stays.
func TestFileEndsWithTheImage(t *testing.T) {
	f := newFolder(t)
	must(t, os.WriteFile(f.image("b", "rootfs"), noise("ABCDEF"), 0o600))
	m, _ := open(t, f, noise("AB"))
	missing(t, m, nil)
	must(t, m.Whole(quiet))
	if info, err := os.Stat(f.image("b", "rootfs")); err != nil || info.Size() != 2*size {
		t.Errorf("it has %d bytes, %v", info.Size(), err)
	}
}

// Whole reads what the disk has, not what was checked on the way in.
func TestDamageAfterTheCheckIsFound(t *testing.T) {
	f := newFolder(t)
	m, _ := open(t, f, noise("AB"))
	must(t, m.Chunk(0, noise("A")))
	must(t, m.Chunk(1, noise("B")))
	file, err := os.OpenFile(f.image("b", "rootfs"), os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("x"), size+7)
	must(t, errors.Join(err, file.Close()))
	wantRule(t, m.Whole(quiet), "image")
}

func TestFailingDiskIsAnErrorAndNoChunk(t *testing.T) {
	for _, op := range []string{fsx.OpWrite, fsx.OpSync} {
		f := newFolder(t)
		m, _ := open(t, f, noise("AB"))
		f.FS.Hook = func(o, _ string) error {
			if o == op {
				return errors.New("input/output error")
			}
			return nil
		}
		err := errors.Join(m.Chunk(0, noise("A")), m.Chunk(1, noise("B")), m.Whole(quiet))
		if err == nil || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("%s: error is %v", op, err)
		}
	}
}

// A step on a large image ends as soon as it is told to.
func TestTickEndsALongStep(t *testing.T) {
	f := newFolder(t)
	m, _ := open(t, f, noise("ABCD"))
	stop := errors.New("stop")
	calls := 0
	_, err := m.Seed(nil, func(int64) error {
		if calls++; calls == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || calls != 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// Unsynced bytes of what was fetched stay below maxLoss, and it is not synced more often than that asks for.
func TestAPowerCutTakesBackLittle(t *testing.T) {
	f := newFolder(t)
	var data []byte
	for n := range 40 {
		part := noise("ABCDEFGHIJKLMNOP")
		for k := range 16 {
			part[k*size] = byte(n)
		}
		data = append(data, part...)
	}
	m, ix := open(t, f, data)
	since, most, syncs := 0, 0, 0
	f.FS.Hook = func(op, _ string) error {
		switch op {
		case fsx.OpWrite:
			since += size
			most = max(most, since)
		case fsx.OpSync:
			since, syncs = 0, syncs+1
		}
		return nil
	}
	for n := range ix.Len() {
		must(t, m.Chunk(n, data[n*size:][:size]))
	}
	if most > maxLoss {
		t.Errorf("%d bytes were not on the disk yet, at most %d may be", most, maxLoss)
	}
	if few := len(data)/maxLoss + 1; syncs > few {
		t.Errorf("%d syncs for %d bytes, want %d", syncs, len(data), few)
	}
}

// What was never written is not read; it is zeros all the same, and what was written
// between is found.
func TestHolesOfTheSpareSlotAreNotRead(t *testing.T) {
	f := newFolder(t)
	data := noise("AB0C0D")
	m, _ := open(t, f, data)
	must(t, m.Chunk(3, noise("C")))
	must(t, m.Close())
	m, _ = open(t, f, data)
	must(t, m.file.Close())
	var err error
	m.file, err = os.OpenFile(f.image("b", "rootfs"), os.O_WRONLY, 0) // nothing can be read
	must(t, err)
	if got, want := missing(t, m, nil), []int{0, 1, 3, 5}; !slices.Equal(got, want) {
		t.Errorf("missing are %v, want %v", got, want)
	}
	must(t, m.Close())
	m, _ = open(t, f, data)
	if got, want := missing(t, m, nil), []int{0, 1, 5}; !slices.Equal(got, want) {
		t.Errorf("missing are %v, want %v", got, want)
	}
	for _, n := range []int{0, 1, 5} {
		must(t, m.Chunk(n, data[n*size:][:size]))
	}
	must(t, m.Whole(quiet))
}

// The images are holes with a last chunk, so that they need no disk.
func TestSizesAroundTwoAndFourGiB(t *testing.T) {
	if os.Getenv("GATEWARDEN_LONG") == "" {
		t.Skip("reads 12 GiB of holes; GATEWARDEN_LONG=1 runs it")
	}
	const large = chunk.MaxChunk
	for _, n := range []int64{1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<32 - 1, 1 << 32, 1<<32 + 1} {
		f := newFolder(t)
		end := []byte("the end of the image")
		hole := n - int64(len(end))
		b, err := chunk.NewBuilder(chunk.SHA512_256, chunk.Sizes{Min: 1, Avg: large, Max: large})
		must(t, err)
		zeros := make([]byte, large)
		for left := hole; left > 0; left -= large {
			part := zeros[:min(left, large)]
			must(t, b.Add(chunk.SHA512_256.Sum(part), len(part)))
		}
		must(t, b.Add(chunk.SHA512_256.Sum(end), len(end)))
		ix, err := b.Index()
		must(t, err)
		hash := sha256.New()
		_, err = io.CopyN(hash, zeroReader{}, hole)
		must(t, err)
		hash.Write(end)
		m, err := f.Open("b", "a", release.Image{Slot: "rootfs", Size: n, SHA256: release.Digest(hash.Sum(nil))})
		must(t, err)
		must(t, m.Index(ix.Encode()))
		if asked := missing(t, m, nil); !slices.Equal(asked, []int{ix.Len() - 1}) {
			t.Errorf("%d bytes: asked for %v", n, asked)
		}
		must(t, m.Chunk(ix.Len()-1, end))
		must(t, m.Whole(quiet))
		got := make([]byte, len(end)+1)
		read, err := m.file.ReadAt(got, hole)
		if string(got[:read]) != string(end) || !errors.Is(err, io.EOF) {
			t.Errorf("%d bytes: the image ends in %q, %v", n, got[:read], err)
		}
		must(t, m.Close())
		must(t, os.Remove(f.image("b", "rootfs")))
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A real block device: room is checked, and one that is mounted is refused.
func TestBlockDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	f := newFolder(t)
	backing := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(backing, make([]byte, 16*size), 0o600))
	out, err := exec.Command("losetup", "--find", "--show", backing).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	must(t, exec.Command("cp", "--archive", device, f.image("b", "rootfs")).Run())
	_, err = f.Open("b", "a", about(make([]byte, 17*size)))
	wantRule(t, err, "slot")
	data := noise("ABCD")
	m, _ := open(t, f, data)
	for n := range 4 {
		must(t, m.Chunk(n, data[n*size:][:size]))
	}
	must(t, m.Whole(quiet))
	if _, err := f.Open("b", "a", about(data)); err == nil {
		t.Error("a device that is in use, as by a mount, was opened")
	}
	must(t, m.Close())
	must(t, exec.Command("cp", "--archive", device, f.image("a", "rootfs")).Run())
	_, err = f.Open("b", "a", about(data))
	wantRule(t, err, "slot") // the running slot is the same device
	f = newFolder(t)
	f.Devices = Devices{"rootfs": {"a": link(t, device), "b": link(t, device)}}
	_, err = f.Open("b", "a", about(data))
	wantRule(t, err, "slot") // also by the product file's names
	f.Devices = Devices{"rootfs": {"b": link(t, device)}}
	m, _ = open(t, f, data)
	if m.Missing() == nil {
		t.Error("nothing is missing before the slot was looked at")
	}
	if asked := missing(t, m, nil); len(asked) != 0 {
		t.Errorf("the device holds the image; asked for %v", asked)
	}
	must(t, m.Whole(quiet))
}
