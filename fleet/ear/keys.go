package ear

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
)

const (
	coordinate = 32                  // bytes of a coordinate on P-256
	keyLife    = 90 * 24 * time.Hour // a key signs so long
	overlap    = 24 * time.Hour      // a key is published so long before it signs, and after
	maxKeys    = 16                  // in the folder, count
	maxKeyFile = 4 << 10             // bytes
	createdKey = "Created"           // header of the PEM block
)

// Keys sign attestation results and nothing else. They lie in a folder, one file
// each, and follow each other by themselves: the next is published a day before it
// signs, and the last a day longer. Safe for concurrent use.
type Keys struct {
	fs  *fsx.FS
	dir string

	mu   sync.Mutex
	keys []*key // oldest first
}

type key struct {
	ID      string // JWK thumbprint (RFC 7638)
	created time.Time
	private *ecdsa.PrivateKey
	path    string
}

// OpenKeys reads the keys in dir and makes the first where there is none.
func OpenKeys(files *fsx.FS, dir string, now time.Time) (*Keys, error) {
	k := &Keys{fs: files, dir: dir}
	if err := files.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of result keys: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list result keys: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".pem") {
			continue // what a write left that was cut off
		}
		one, err := readKey(files, filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read result key: %w\nhint: without the folder %s a new key is made; those who verify results fetch it", err, dir)
		}
		if k.keys = append(k.keys, one); len(k.keys) > maxKeys {
			return nil, fmt.Errorf("%s holds more than %d result keys: remove those that this server did not make", dir, maxKeys)
		}
	}
	slices.SortFunc(k.keys, func(a, b *key) int { return a.created.Compare(b.created) })
	return k, k.Rotate(now)
}

// Rotate makes the next key when it is time, and forgets those that nobody needs. It
// is safe to call at any time, and to repeat.
func (k *Keys) Rotate(now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.keys); n == 0 || now.Sub(k.keys[n-1].created) >= keyLife-overlap {
		next, err := k.makeKey(now)
		if err != nil {
			return fmt.Errorf("make result key: %w", err)
		}
		k.keys = append(k.keys, next)
	}
	// One whose successor has signed for the overlap has no valid token left.
	for len(k.keys) > 1 && now.Sub(k.keys[1].created) >= 2*overlap {
		if err := k.fs.Remove(k.keys[0].path); err != nil {
			return fmt.Errorf("remove old result key: %w", err)
		}
		k.keys = k.keys[1:]
	}
	return nil
}

// signing is the newest that was published long enough, or the oldest.
func (k *Keys) signing(now time.Time) *key {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := len(k.keys) - 1; i > 0; i-- {
		if now.Sub(k.keys[i].created) >= overlap {
			return k.keys[i]
		}
	}
	return k.keys[0]
}

// Set is the JWK Set of all keys (RFC 7517).
func (k *Keys) Set() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := make([]map[string]string, 0, len(k.keys))
	for _, one := range k.keys {
		jwk, err := jwkOf(&one.private.PublicKey)
		if err != nil {
			return nil, err
		}
		jwk["kid"], jwk["use"], jwk["alg"] = one.ID, "sig", "ES256"
		list = append(list, jwk)
	}
	return json.Marshal(map[string]any{"keys": list})
}

func (k *Keys) makeKey(now time.Time) (*key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	made, err := newKey(private, now.UTC().Truncate(time.Second))
	if err != nil {
		return nil, err
	}
	made.path = filepath.Join(k.dir, made.ID+".pem")
	block := &pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{createdKey: made.created.Format(time.RFC3339)}, Bytes: der}
	return made, k.fs.WriteFile(made.path, pem.EncodeToMemory(block), 0o600)
}

func readKey(files *fsx.FS, path string) (*key, error) {
	raw, err := files.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file", path)
	}
	created, err := time.Parse(time.RFC3339, block.Headers[createdKey])
	if err != nil {
		return nil, fmt.Errorf("%s does not say when it was made: %w", path, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s holds no P-256 key", path)
	}
	one, err := newKey(private, created)
	if err != nil {
		return nil, err
	}
	one.path = path
	return one, nil
}

func newKey(private *ecdsa.PrivateKey, created time.Time) (*key, error) {
	jwk, err := jwkOf(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	canonical, err := json.Marshal(jwk) // members sorted, nothing between: as RFC 7638, section 3.3 has it
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(canonical)
	return &key{ID: base64.RawURLEncoding.EncodeToString(sum[:]), created: created, private: private}, nil
}

func jwkOf(public *ecdsa.PublicKey) (map[string]string, error) {
	point, err := public.Bytes() // 4 || X || Y
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return map[string]string{
		"kty": "EC", "crv": "P-256",
		"x": base64.RawURLEncoding.EncodeToString(point[1 : 1+coordinate]), "y": base64.RawURLEncoding.EncodeToString(point[1+coordinate:]),
	}, nil
}
