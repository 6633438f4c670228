package image

import "path/filepath"

// FileKey returns the key that signs files, and its public half. RSA, as its
// signatures of one file are equal.
func (c *Cache) FileKey() (private, public string, err error) {
	dir, err := c.Get("file-key", 1, func(dir string) error {
		key := filepath.Join(dir, "key.pem")
		if err := run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key); err != nil {
			return err
		}
		return run("openssl", "pkey", "-in", key, "-pubout", "-out", filepath.Join(dir, "public.pem"))
	})
	return filepath.Join(dir, "key.pem"), filepath.Join(dir, "public.pem"), err
}

// signFiles gives each file of a tree its signature in security.ima.
func (c *Cache) signFiles(tree string) error {
	key, _, err := c.FileKey()
	if err != nil {
		return err
	}
	return run("evmctl", "ima_sign", "--recursive", "--hashalgo", "sha256", "--key", key, tree)
}
