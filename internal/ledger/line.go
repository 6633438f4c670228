package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// header is the first line of a ledger. The file is made with it in one step, so
// a ledger without it is damaged, not new.
const header = "gatewarden-ledger-v1\n"

// sumSize is the length of a line's checksum, in hex digits. It is against
// accidents; whoever can write here with intent can also start afresh.
const sumSize = 16

// encode returns "checksum json\n".
func encode(e Entry) ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	line := append([]byte(checksum(data)), ' ')
	return append(append(line, data...), '\n'), nil
}

func decode(line []byte) (Entry, error) {
	sum, data, ok := bytes.Cut(line, []byte(" "))
	if !ok || string(sum) != checksum(data) {
		return Entry{}, errors.New("checksum does not fit")
	}
	var e Entry
	if err := strictjson.Inform(data, &e); err != nil {
		return Entry{}, err
	}
	if e.ID == "" {
		return Entry{}, errors.New("id is missing")
	}
	return e, nil
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:sumSize]
}
