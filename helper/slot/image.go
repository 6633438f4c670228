package slot

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/release"
)

// maxLoss is how much of what was fetched a power cut may take back, in bytes.
const maxLoss = 1 << 20

// Image is one image on its way into the spare slot. It is not safe for concurrent
// use.
type Image struct {
	folder   Folder
	about    release.Image
	file     *os.File // of the spare slot
	running  *os.File // of the running slot, nil if it has none
	ix       *chunk.Index
	have     []bool // by chunk: verified, in its place
	missing  int    // chunks
	unsynced int    // bytes
}

// Tick is told how many bytes a long step did. Its error ends the step.
type Tick func(done int64) error

// Open opens the spare slot for the image that about names. Errors: *Error.
func (f Folder) Open(spare, running string, about release.Image) (*Image, error) {
	m := &Image{folder: f, about: about}
	var err error
	if m.running, err = f.openRunning(running, about.Slot); err != nil {
		return nil, err
	}
	if m.file, err = f.open(spare, about.Slot, about.Size, m.running); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Close gives the slot up; what was written stays.
func (m *Image) Close() error {
	var errs []error
	for _, f := range []*os.File{m.file, m.running} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Index begins the image. raw is its index, whose signature was checked.
func (m *Image) Index(raw []byte) error {
	ix, err := chunk.Parse(raw)
	if err != nil {
		return refuse("index", "The index is unreadable: %v.", err)
	}
	if ix.Size() != m.about.Size {
		return refuse("index", "The index describes %d bytes, the release %d.", ix.Size(), m.about.Size)
	}
	m.ix, m.have, m.missing = ix, make([]bool, ix.Len()), ix.Len()
	return nil
}

// Seed finds what need not be fetched: it lies in its place already, or elsewhere
// in this image, or in the running slot, whose index raw is; it may be empty. The
// answer has bit n%8, from the lowest, of byte n/8 set if chunk n is missing; of
// equal chunks only the first is. Errors: *Error.
func (m *Image) Seed(raw []byte, tick Tick) ([]byte, error) {
	if m.ix == nil {
		return nil, refuse("index", "The index comes first.")
	}
	old, err := m.seedIndex(raw)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, m.ix.Sizes().Max)
	zeros := m.ix.Algorithm().Sum(buf)
	for n := range m.have {
		if err := tick(m.ix.At(n).Offset); err != nil {
			return nil, err
		}
		if m.have[n] {
			continue
		}
		if m.inPlace(n, zeros, buf) {
			m.take(n)
		} else if err := m.borrow(n, old, buf); err != nil {
			return nil, err
		}
	}
	return m.rest(buf)
}

// seedIndex returns nil where the running slot is of no use.
// inPlace says whether chunk n lies in its place. What was never written is not read:
// it is zeros. A device has no such holes.
func (m *Image) inPlace(n int, zeros chunk.ID, buf []byte) bool {
	c := m.ix.At(n)
	data, err := m.file.Seek(c.Offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && data >= c.Offset+int64(c.Size) {
		return c.ID == zeros && c.Size == len(buf)
	}
	return m.ix.Holds(m.file, n, buf)
}

func (m *Image) seedIndex(raw []byte) (*chunk.Index, error) {
	if len(raw) == 0 || m.running == nil {
		return nil, nil
	}
	old, err := chunk.Parse(raw)
	if err != nil {
		return nil, refuse("index", "The running slot's index is unreadable: %v.", err)
	}
	if old.Algorithm() != m.ix.Algorithm() {
		return nil, nil
	}
	return old, nil
}

// borrow copies chunk n from the running slot, if old finds it there.
func (m *Image) borrow(n int, old *chunk.Index, buf []byte) error {
	if old == nil {
		return nil
	}
	// One try: a chunk that the running slot lacks at its first place is fetched.
	places := old.Find(m.ix.At(n).ID)
	if len(places) == 0 {
		return nil
	}
	return m.copy(n, m.running, old.At(int(places[0])).Offset, buf)
}

// copy writes chunk n if file has it at offset. Our copy is what is checked and
// written: the file may be changing.
func (m *Image) copy(n int, file *os.File, offset int64, buf []byte) error {
	buf = buf[:m.ix.At(n).Size]
	if _, err := file.ReadAt(buf, offset); err != nil {
		return nil // what can't be read is fetched
	}
	piece, err := m.ix.Piece(n, buf)
	if err != nil {
		return nil
	}
	return m.put(n, piece)
}

// rest lists what is missing still, after copying what another place of the image
// holds.
func (m *Image) rest(buf []byte) ([]byte, error) {
	missing := make([]byte, (len(m.have)+7)/8)
	for n := range m.have {
		twins := m.ix.Find(m.ix.At(n).ID)
		for _, twin := range twins {
			if m.have[n] || !m.have[twin] {
				continue
			}
			if err := m.copy(n, m.file, m.ix.At(int(twin)).Offset, buf); err != nil {
				return nil, err
			}
		}
		// Twins get the bytes of the first of them when it comes.
		if !m.have[n] && int(twins[0]) == n {
			missing[n/8] |= 1 << (n % 8)
		}
	}
	return missing, nil
}

// Chunk takes the uncompressed bytes of chunk n, and writes them wherever the
// image has that chunk. The caller owns data. Errors: *Error.
func (m *Image) Chunk(n int, data []byte) error {
	if m.ix == nil {
		return refuse("index", "The index comes first.")
	}
	named, err := m.ix.Piece(n, data)
	if err != nil {
		return refuse("chunk", "The chunk was altered, or is not of this image: %v.", err)
	}
	for _, twin := range m.ix.Find(m.ix.At(n).ID) {
		if m.have[twin] {
			continue
		}
		piece := named
		if int(twin) != n { // the same bytes in another place
			if piece, err = m.ix.Piece(int(twin), data); err != nil {
				return err
			}
		}
		if err := m.put(int(twin), piece); err != nil {
			return err
		}
		m.unsynced += len(data)
	}
	if m.unsynced+m.ix.Sizes().Max <= maxLoss { // the next chunk fits too
		return nil
	}
	m.unsynced = 0
	return m.folder.settle(m.file)
}

// put writes chunk n, which the type says is verified.
func (m *Image) put(n int, piece chunk.Piece) error {
	if err := m.folder.fault(fsx.OpWrite, m.file.Name()); err != nil {
		return err
	}
	if err := piece.Put(m.file); err != nil {
		return err
	}
	m.take(n)
	return nil
}

func (m *Image) take(n int) {
	m.have[n] = true
	m.missing--
}

// Missing returns how many chunks the image lacks; all, as long as it has no index.
func (m *Image) Missing() error {
	if m.ix == nil || m.missing > 0 {
		return refuse("incomplete", "Image %s lacks %d chunks.", m.about.Slot, m.missing)
	}
	return nil
}

// Whole makes the image durable, reads it back from the disk and holds it to the
// digest that the owner signed. Errors: *Error.
func (m *Image) Whole(tick Tick) error {
	if err := m.Missing(); err != nil {
		return err
	}
	if err := m.folder.settle(m.file); err != nil {
		return err
	}
	hash, buf := sha256.New(), make([]byte, chunk.MaxChunk)
	image := io.NewSectionReader(m.file, 0, m.about.Size)
	for done := int64(0); done < m.about.Size; {
		if err := tick(done); err != nil {
			return err
		}
		n, err := io.ReadFull(image, buf[:min(int64(len(buf)), m.about.Size-done)])
		if err != nil {
			return err
		}
		hash.Write(buf[:n])
		done += int64(n)
	}
	if sum := release.Digest(hash.Sum(nil)); sum != m.about.SHA256 {
		return refuse("image", "Image %s has digest %s, the release says %s.", m.about.Slot, sum, m.about.SHA256)
	}
	return nil
}
