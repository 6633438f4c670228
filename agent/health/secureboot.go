package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The variable's GUID is EFI_GLOBAL_VARIABLE (UEFI 2.10, section 3.3).
const secureBootVariable = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// secureBoot reports what the firmware says; attestation proves it.
func secureBoot(efivars string) Check {
	return Check{Name: "secureboot", Every: time.Hour, Run: func(context.Context) (string, string) {
		if _, err := os.Stat(efivars); errors.Is(err, fs.ErrNotExist) {
			return Unknown, "this is no EFI machine, or its EFI variables are not mounted"
		}
		f, err := os.Open(filepath.Join(efivars, secureBootVariable))
		if errors.Is(err, fs.ErrNotExist) {
			return Warning, "the firmware has no Secure Boot"
		}
		if err != nil {
			return Unknown, fmt.Sprintf("can't read the Secure Boot variable: %v", err)
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, 16))
		if err != nil {
			return Unknown, fmt.Sprintf("can't read the Secure Boot variable: %v", err)
		}
		return judgeSecureBoot(data)
	}}
}

// judgeSecureBoot reads the variable as efivarfs gives it: four bytes of
// attributes, then one byte that is 1 when Secure Boot is enforced.
func judgeSecureBoot(data []byte) (status, summary string) {
	switch {
	case len(data) != 5 || data[4] > 1:
		return Unknown, "the Secure Boot variable is malformed"
	case data[4] == 0:
		return Warning, "Secure Boot is off; switch it on in the firmware setup"
	}
	return OK, "Secure Boot is on"
}
