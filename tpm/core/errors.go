package core

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Classes of failure that callers branch on with errors.Is. The message of the
// error that wraps one says what to do next.
var (
	ErrAbsent    = errors.New("no TPM")                     // no device, no permission, or the connection broke
	ErrBusy      = errors.New("TPM is busy")                // try again later
	ErrLockedOut = errors.New("TPM is locked out")          // dictionary attack protection; never retried
	ErrPolicy    = errors.New("TPM policy refuses")         // authorisation or policy not satisfied
	ErrDamaged   = errors.New("damaged TPM key or answer")  // a key file or a response that makes no sense
	ErrReplaced  = errors.New("key belongs to another TPM") // chip cleared or replaced: enrol again
)

// classed is an error with a class and its cause.
type classed struct {
	class error
	hint  string
	cause error
}

func (e *classed) Error() string {
	text := e.class.Error()
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	if e.hint != "" {
		text += " (" + e.hint + ")"
	}
	return text
}

func (e *classed) Unwrap() []error {
	if e.cause == nil {
		return []error{e.class}
	}
	return []error{e.class, e.cause}
}

// Classify makes an error of a class, with a hint what to do next; either may be empty.
func Classify(class error, hint string, cause error) error {
	return &classed{class: class, hint: hint, cause: cause}
}

// outcome is a class with the response codes (TPM 2.0 Part 2, 6.6) that mean it.
type outcome struct {
	class error
	hint  string
	codes []tpm2.TPMRC
}

func outcomes() []outcome {
	return []outcome{
		{ErrLockedOut, "wait for the chip's recovery time, or clear the lockout with the lockout password", []tpm2.TPMRC{
			tpm2.TPMRCLockout,
		}},
		{ErrBusy, "the chip postponed the command too often; try again in a minute", []tpm2.TPMRC{
			tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate,
		}},
		{ErrBusy, "other programs fill the chip; use the resource manager /dev/tpmrm0", []tpm2.TPMRC{
			tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCMemory,
			tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles, tpm2.TPMRCContextGap,
		}},
		{ErrPolicy, "is a password set on the owner or endorsement hierarchy? give it as the credential tpm-owner-auth or tpm-endorsement-auth", []tpm2.TPMRC{
			tpm2.TPMRCPolicyFail, tpm2.TPMRCPolicy, tpm2.TPMRCPolicyCC, tpm2.TPMRCPCRChanged,
			tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthType, tpm2.TPMRCAuthUnavailable,
			tpm2.TPMRCExpired, tpm2.TPMRCNVAuthorization, tpm2.TPMRCNVLocked,
		}},
		{ErrReplaced, "the chip was cleared or reset while keys were in it; try again", []tpm2.TPMRC{
			tpm2.TPMRCReferenceH0, tpm2.TPMRCReferenceH1, tpm2.TPMRCReferenceH2,
		}},
		{ErrAbsent, "the chip is in failure mode or was not started; power-cycle the machine", []tpm2.TPMRC{
			tpm2.TPMRCFailure, tpm2.TPMRCInitialize, tpm2.TPMRCNeedsTest, tpm2.TPMRCReboot,
		}},
	}
}

// responseClass is nil for codes that only a programming error gives.
func responseClass(rc tpm2.TPMRC) (hint string, class error) {
	for _, o := range outcomes() {
		for _, code := range o.codes {
			if errors.Is(rc, code) {
				return o.hint, o.class
			}
		}
	}
	return "", nil
}

// explain gives an error of one operation its class and says what was being done.
func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	var done *classed
	var said interface{ Explained() }
	if errors.As(err, &done) || errors.As(err, &said) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	var rc tpm2.TPMRC
	if errors.As(err, &rc) {
		if hint, class := responseClass(rc); class != nil {
			err = Classify(class, hint, err)
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", what, silent(err))
	}
	return fmt.Errorf("%s: %w", what, Classify(ErrDamaged, "the chip or its driver sent what is no TPM answer", err))
}

// forgotten tells whether the chip no longer knows what this connection loaded.
func forgotten(err error) bool {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return false
	}
	_, class := responseClass(rc)
	return class == ErrReplaced
}

// silent is the error for a chip that did not answer in time.
func silent(cause error) error {
	return Classify(ErrBusy, "TPM does not answer; if this stays, the machine needs a power cycle", cause)
}
