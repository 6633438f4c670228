package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/policy"
)

// Operators is who may command.
type Operators struct {
	*policy.Operators       // in force
	root              int64 // under which the adopted ones came; 0: none were adopted
}

type adopted struct {
	Version  int    `json:"v"`    // 1
	Root     int64  `json:"root"` // version
	Document []byte `json:"document"`
}

// InForce returns the operators who were installed or, if they are newer, those whom
// Adopt keeps at path. Damage there is an error: whoever was withdrawn would be back.
func InForce(disk *fsx.FS, path string, installed *policy.Operators) (Operators, error) {
	o := Operators{Operators: installed}
	var kept adopted
	err := disk.ReadJSON(path, 2*policy.MaxDocument, &kept)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	var later *policy.Operators
	if err == nil {
		if later, err = policy.ParseOperators(kept.Document); err != nil {
			err = fmt.Errorf("%w: %w", fsx.ErrDamaged, err)
		}
	}
	if err != nil {
		return o, fmt.Errorf("read adopted operators: %w", err)
	}
	if o.root = kept.Root; later.Fleet == installed.Fleet && later.Issued.After(installed.Issued) {
		o.Operators = later
	}
	return o, nil
}

// Adopt keeps a document that the owner signed under the root of this version and end,
// if it is not older than the one in force. Only a newer root takes an older one, and
// so a date back that a stolen key wrote.
func (o Operators) Adopt(disk *fsx.FS, path string, document []byte, root int64, end time.Time) error {
	next, err := policy.ParseOperators(document)
	switch {
	case err != nil:
		return &policy.Refusal{Rule: policy.RuleFormat, Text: fmt.Sprintf("The operators' document is unreadable: %v.", err)}
	case next.Fleet != o.Fleet:
		return &policy.Refusal{Rule: "fleet", Text: fmt.Sprintf("The operators' document is of fleet %q, not %q.", next.Fleet, o.Fleet)}
	case next.Issued.After(end):
		return &policy.Refusal{Rule: "issued", Text: fmt.Sprintf("The operators' document says that it was issued on %s, after the end of the root.", next.Issued)}
	case next.Issued.Before(o.Issued) && (o.root == 0 || root <= o.root):
		return &policy.Refusal{Rule: "older", Text: fmt.Sprintf("The operators' document was issued on %s, the one in force on %s.", next.Issued, o.Issued)}
	}
	return disk.WriteJSON(path, adopted{1, root, document}, 0o600)
}
