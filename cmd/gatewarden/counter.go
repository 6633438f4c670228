package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/gatewarden/gatewarden/helper"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/p256key"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/tpm/core"
	"github.com/gatewarden/gatewarden/tpm/counter"
)

const (
	counterName    = "counter.json"
	maxCounterFile = 8 << 10 // bytes
)

// epochCounter is the TPM's counter behind the security epoch: how far it is above
// its beginning is the epoch. It is made when it is first asked for.
type epochCounter struct {
	fs   *fsx.FS
	path string // of its file, root's: whoever reads the key in it may raise the counter
	chip string // path of the TPM
	auth core.Auth
}

// counterFile is on disk, with its key, before the TPM's index is made.
type counterFile struct {
	Version int             `json:"v"`   // 1
	Key     []byte          `json:"key"` // PKCS #8, P-256
	Record  *counter.Record `json:"record,omitempty"`
}

func newEpochCounter(c helper.Config, chip string, auth core.Auth) *epochCounter {
	return &epochCounter{fs: c.FS, path: filepath.Join(c.State, counterName), chip: chip, auth: auth}
}

func (e *epochCounter) Epoch(ctx context.Context) (uint64, []byte, error) {
	var epoch uint64
	var record []byte
	err := e.do(ctx, "read epoch counter", func(c *core.Chip, _ *ecdsa.PrivateKey, r counter.Record) error {
		value, err := counter.Read(c, r)
		if err != nil {
			return err
		}
		if epoch, err = r.Delta(value); err != nil {
			return err
		}
		record, err = json.Marshal(r)
		return err
	})
	if err != nil { // the chip's goroutine may still write what it found
		return 0, nil, err
	}
	return epoch, record, nil
}

func (e *epochCounter) Raise(ctx context.Context, epoch uint64) error {
	return e.do(ctx, "raise epoch counter", func(c *core.Chip, key *ecdsa.PrivateKey, r counter.Record) error {
		_, err := counter.Raise(c, key, r, epoch)
		return err
	})
}

// do runs work on the TPM, with the counter's key and record.
func (e *epochCounter) do(ctx context.Context, what string, work func(*core.Chip, *ecdsa.PrivateKey, counter.Record) error) error {
	file, key, err := e.load()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	chip, err := core.Open(ctx, e.chip, core.WithAuth(e.auth))
	if err != nil {
		return err
	}
	defer chip.Close()
	return chip.Do(ctx, what, func(c *core.Chip) error {
		record, err := pinned(c, file.Record, key, e.auth.Owner)
		if err != nil {
			return err
		}
		if file.Record == nil || file.Record.Storage == nil {
			file.Record = &record
			if err := e.fs.WriteJSON(e.path, file, 0o600); err != nil {
				return err
			}
		}
		return work(c, key, record)
	})
}

// pinned is the record of the counter, which is made where there is none.
func pinned(c *core.Chip, r *counter.Record, key *ecdsa.PrivateKey, owner []byte) (counter.Record, error) {
	if r == nil {
		return counter.Define(c, key, counter.Index, owner)
	}
	return counter.Pin(c, *r)
}

// load reads the file, or begins one. A damaged one is an error, and a key that is not
// known is damage here: a new counter would begin at nothing.
func (e *epochCounter) load() (counterFile, *ecdsa.PrivateKey, error) {
	var file counterFile
	data, err := e.fs.ReadFile(e.path, maxCounterFile)
	if err == nil {
		err = strictjson.Unmarshal(data, &file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if file, err = newCounterFile(); err == nil {
			err = e.fs.WriteJSON(e.path, file, 0o600)
		}
	}
	if err != nil {
		return counterFile{}, nil, fmt.Errorf("read %s: %w", e.path, err)
	}
	key, err := p256key.Parse(file.Key)
	if err != nil || file.Version != 1 {
		return counterFile{}, nil, fmt.Errorf("%s holds no key of version 1", e.path)
	}
	return file, key, nil
}

func newCounterFile() (counterFile, error) {
	_, der, err := p256key.New()
	return counterFile{Version: 1, Key: der}, err
}

var _ helper.Counter = (*epochCounter)(nil)
