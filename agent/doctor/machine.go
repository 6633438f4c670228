package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/agent"
)

// Machine is what is looked at. All fields are required but ConfigErr.
type Machine struct {
	Root      string         // "/", or a folder that stands for it
	UID       int            // of who looks
	Settings  agent.Settings // agent.toml, or the built-in values
	Config    string         // its path
	ConfigErr error          // why it could not be used
	Build     time.Time      // of this program: no time before it is believed
	Now       func() time.Time
	Kernel    Kernel
	// Chip reads the TPM.
	Chip func(ctx context.Context) (*Chip, error)
	// Product reads the product file as the helper does; fs.ErrNotExist if there is none.
	Product func() (Product, error)
	// Loader names the boot loader that the helper would use.
	Loader func(Product) (string, error)

	asked   bool // Chip was
	chipNow *Chip
	chipErr error
}

// ProductFile is where the helper looks for it.
const ProductFile = "/etc/gatewarden/product.json"

// Product is what product.json says that concerns the machine.
type Product struct {
	ESP     string
	Devices map[string]map[string]string // by kind of image, then by slot
}

// Kernel is what only system calls tell.
type Kernel struct {
	Landlock func() (abi int, err error)
	Synced   func() bool                       // whether a time source has set the clock
	Volume   func(path string) (Volume, error) // StatVolume
	Block    func(path string) (bool, error)   // IsBlock
}

// Volume is a mounted file system.
type Volume struct {
	Device   uint64
	Kind     int64  // the kernel's magic number
	Free     uint64 // bytes, for others than root
	ReadOnly bool
}

// StatVolume asks the kernel.
func StatVolume(path string) (Volume, error) {
	var st unix.Statfs_t
	var file unix.Stat_t
	if err := errors.Join(unix.Statfs(path, &st), unix.Stat(path, &file)); err != nil {
		return Volume{}, err
	}
	return Volume{
		Device: uint64(file.Dev), Kind: int64(st.Type), Free: st.Bavail * uint64(max(st.Bsize, 0)), ReadOnly: st.Flags&unix.ST_RDONLY != 0,
	}, nil
}

// IsBlock says whether path is a block device, or a link to one.
func IsBlock(path string) (bool, error) {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.ModeDevice, err
}

// errNoChip is what is not asked for when there is no TPM to ask.
var errNoChip = errors.New("the TPM was not asked")

// chip reads the TPM, once.
func (m *Machine) chip(ctx context.Context) (*Chip, error) {
	if !m.asked {
		m.asked = true
		m.chipNow, m.chipErr = m.Chip(ctx)
	}
	return m.chipNow, m.chipErr
}

func (m *Machine) at(path string) string { return filepath.Join(m.Root, path) }

// maxRead is more than any file has that is read here: IMA lists grow.
const maxRead = 64 << 20 // bytes

// read reads a file. It waits for no pipe.
func (m *Machine) read(path string) ([]byte, error) {
	f, err := os.OpenFile(m.at(path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// word reads a file that holds one.
func (m *Machine) word(path string) (string, error) {
	data, err := m.read(path)
	return strings.TrimSpace(string(data)), err
}

// variable reads an EFI variable without its attributes.
func (m *Machine) variable(name string) ([]byte, error) {
	data, err := m.read("/sys/firmware/efi/efivars/" + name)
	if err == nil && len(data) < 4 {
		err = fmt.Errorf("EFI variable %s has %d bytes", name, len(data))
	}
	if err != nil {
		return nil, err
	}
	return data[4:], nil
}

// id looks a name up in /etc/passwd or /etc/group; -1 if it is not there.
func (m *Machine) id(file, name string) (int, error) {
	data, err := m.read(file)
	if err != nil {
		return -1, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Split(line, ":"); len(fields) > 2 && fields[0] == name {
			return strconv.Atoi(strings.TrimSpace(fields[2]))
		}
	}
	return -1, nil
}

// owned is what stat says of a file; links are followed.
func (m *Machine) owned(path string) (fs.FileInfo, *syscall.Stat_t, error) {
	info, err := os.Stat(m.at(path))
	if err != nil {
		return nil, nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, nil, errors.New("this system does not say whose it is")
	}
	return info, stat, nil
}

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
