// Package cli is what the command lines of both programs share.
//
// Its promise: a wrong command line exits with 2, what could not be done with 1 and
// its reason on stderr, and nothing else is printed by it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Exit codes of every verb; the help text of a verb lists those that it adds.
const (
	OK    = 0
	Error = 1 // it could not be done; stderr says why and what to do
	Usage = 2 // the command line is wrong
)

// Exit is an outcome that a code tells, with nothing to print.
type Exit int

func (e Exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// UsageError marks a wrong command line.
type UsageError struct{ error }

// NewUsageError marks err.
func NewUsageError(err error) UsageError { return UsageError{err} }

// Run executes root, a program's whole command line, and returns its exit code.
func Run(ctx context.Context, root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.Args = verbOnly
	root.RunE = help
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return UsageError{err} })
	strict(root)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var code Exit
	var usage UsageError
	switch {
	case err == nil:
		return OK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %v\nhint: %[1]s help lists the verbs\n", root.Name(), err)
		return Usage
	}
	fmt.Fprintf(stderr, "%s: %v\n", root.Name(), err)
	return Error
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func verbOnly(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return UsageError{fmt.Errorf("there is no verb %q", args[0])}
	}
	return nil
}

// strict makes a wrong argument of any verb, a missing flag, and flags that don't go
// together a UsageError.
func strict(cmd *cobra.Command) {
	inner := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		err := cmd.ValidateRequiredFlags()
		if err == nil {
			err = cmd.ValidateFlagGroups()
		}
		if err == nil && inner != nil {
			err = inner(cmd, args)
		}
		if err != nil && !errors.As(err, new(UsageError)) {
			err = UsageError{err}
		}
		return err
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}
