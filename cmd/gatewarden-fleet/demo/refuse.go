package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/helper/client"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/update"
	"github.com/gatewarden/gatewarden/update/chunk"
	"github.com/gatewarden/gatewarden/update/tuf"
)

const (
	oldEpoch     = "1.5.0" // a release of epoch 1, for gateways that have not reached 2
	otherProduct = "gatewarden-kiosk"
	otherVersion = "9.0.0"
)

// refused shows a release that does not work, and four that must not get in. For
// these a thief has taken the agent over and speaks to the root helper himself.
func refused(ctx context.Context, w *world) ([]string, error) {
	g := w.gateways[0]
	lines, err := w.rolledBack(ctx, g)
	if err != nil {
		return lines, err
	}
	spare := g.machine.image("a", "rootfs")
	before, err := digest(spare)
	if err != nil {
		return lines, err
	}
	for _, one := range []struct {
		name string
		try  func(context.Context, *gateway) (string, error)
	}{
		{"broken signature", w.brokenSignature}, {"older epoch", w.olderEpoch}, {"another product", w.otherProduct}, {"altered chunk", w.alteredChunk},
	} {
		why, err := one.try(ctx, g)
		if err != nil {
			return lines, fmt.Errorf("%s: %w", one.name, err)
		}
		after, err := digest(spare)
		if err != nil || after != before {
			return lines, errors.Join(fmt.Errorf("%s: the spare slot has changed", one.name), err)
		}
		lines = append(lines, fmt.Sprintf("refused   %-18s %s", one.name, why))
	}
	return append(lines, "the helper refused each before a byte of the spare slot changed"), nil
}

func digest(path string) (sum [32]byte, err error) {
	data, err := os.ReadFile(path)
	return sha256.Sum256(data), err
}

// brokenSignature alters the timestamp that is served: the agent refuses it and
// tells the fleet, and so does the helper, who is shown the same.
func (w *world) brokenSignature(ctx context.Context, g *gateway) (string, error) {
	path := filepath.Join(w.settings.Updates, "metadata", "timestamp.json")
	good, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	at := bytes.Index(good, []byte(`"sig"`))
	if at < 0 {
		return "", errors.New("the timestamp has no signature")
	}
	bad := bytes.Clone(good)
	at += len(`"sig"`) + bytes.IndexAny(good[at+len(`"sig"`):], "0123456789abcdef")
	bad[at] = map[bool]byte{true: '1', false: '0'}[bad[at] == '0']
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		return "", err
	}
	_, refusal := w.ask(ctx, g, product, version3)
	told, err := w.report(ctx, g, "that the signature is broken", func(u wire.Update) bool { return strings.HasPrefix(u.Rule, "tuf/") })
	if err = errors.Join(err, os.WriteFile(path, good, 0o600)); err != nil {
		return "", err
	}
	if told.Rule != "tuf/signature" {
		return "", fmt.Errorf("the fleet was told %s: %s", told.Rule, told.Text)
	}
	return ruled(refusal, "tuf/signature")
}

// olderEpoch is signed by the owner, and yet of no use to a thief.
func (w *world) olderEpoch(ctx context.Context, g *gateway) (string, error) {
	if err := w.publish(ctx, newSoftware(oldEpoch, 1, 1)); err != nil {
		return "", err
	}
	_, refusal := w.ask(ctx, g, product, oldEpoch)
	return ruled(refusal, "epoch")
}

func (w *world) otherProduct(ctx context.Context, g *gateway) (string, error) {
	other := newSoftware(otherVersion, 2, 1)
	other.product = otherProduct
	if err := w.publish(ctx, other); err != nil {
		return "", err
	}
	_, refusal := w.ask(ctx, g, otherProduct, otherVersion)
	return ruled(refusal, "product")
}

// alteredChunk sends one for a release that is signed and not installed.
func (w *world) alteredChunk(ctx context.Context, g *gateway) (string, error) {
	session, err := w.ask(ctx, g, product, version3)
	if err != nil {
		return "", err
	}
	defer session.Close()
	for _, image := range session.Images() {
		if image.Kind != "rootfs" {
			continue
		}
		index, err := w.target(ctx, image.Index)
		if err != nil {
			return "", err
		}
		if err := session.Index(ctx, image.Kind, index); err != nil {
			return "", err
		}
		return ruled(session.Chunk(ctx, 0, flipped(index, g.machine.image("a", image.Kind))), "chunk")
	}
	return "", errors.New("the release has no root file system")
}

// flipped is the first chunk of an image that path holds, with a bit of it changed.
func flipped(index []byte, path string) []byte {
	ix, err := chunk.Parse(index)
	if err != nil {
		return nil
	}
	image, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	data := image[:ix.At(0).Size]
	data[len(data)/2] ^= 1
	return data
}

// ask is an intruder in the agent's place who asks the helper for a release.
func (w *world) ask(ctx context.Context, g *gateway, product, version string) (*client.Install, error) {
	path := fmt.Sprintf("releases/%s/%s/%s.json", product, channel, version)
	return client.New(g.helperSocket()).Install(ctx, path, served(filepath.Join(w.settings.Updates, "metadata")))
}

// ruled returns what a refusal says, which must be by this rule.
func ruled(err error, rule string) (string, error) {
	var refusal *policy.Refusal
	if !errors.As(err, &refusal) || refusal.Rule != rule {
		return "", fmt.Errorf("the helper's answer is %w, want a refusal by %q", err, rule)
	}
	return refusal.Text, nil
}

// target reads a target as a gateway does.
func (w *world) target(ctx context.Context, path string) ([]byte, error) {
	root, err := w.owner.repo.Root()
	if err != nil {
		return nil, err
	}
	repo, err := update.NewRepo(tuf.Config{
		FS: &fsx.FS{}, Dir: filepath.Join(w.dir, "thief"), Root: root, Now: time.Now,
		Metadata: served(filepath.Join(w.settings.Updates, "metadata")), Targets: served(filepath.Join(w.settings.Updates, "targets")),
	})
	if err != nil {
		return nil, err
	}
	if err := repo.Refresh(ctx); err != nil {
		return nil, err
	}
	return repo.Read(ctx, path)
}

// served is a folder of the repository.
type served string

func (s served) Fetch(_ context.Context, name string, _ int64) (io.ReadCloser, error) {
	name, err := url.PathUnescape(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(string(s), filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, tuf.ErrNoFile
	}
	return f, err
}

var _ tuf.Fetcher = served("")
