package update

import (
	"encoding/json"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// looseJSON reads some members only: of a format that may be of a later release.
func looseJSON(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode: %w: %w", err, fsx.ErrDamaged)
	}
	return nil
}

func decodeRecord(data []byte, r *Record) error {
	var read Record
	err := strictjson.Inform(data, &read)
	if err == nil {
		err = read.check()
	}
	if err != nil {
		return fmt.Errorf("decode record: %w: %w", err, fsx.ErrDamaged)
	}
	*r = read
	return nil
}
