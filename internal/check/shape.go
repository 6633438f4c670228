package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/gatewarden/gatewarden/internal/archtest"
)

// Ceilings of the code that runs as root, in lines without tests.
const (
	maxHelper = 1500 // the package helper itself
	// All of our own code in the helper's process. The aim is 5,000: this ceiling is
	// what it is today, and each rise has its reason in docs/adr/009.
	maxHelperClosure = 10_950
	helperAim        = 5000
)

// helperParts are the packages that cmd/gatewarden puts together as the helper.
func helperParts() []string {
	return []string{"helper", "tpm/core", "tpm/counter", "internal/p256key", "internal/softkey"}
}

func checkImports(_ context.Context, root string) (string, error) {
	tree, err := archtest.Read(root)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d packages", len(tree.Packages)), faults(archtest.Imports(tree, archtest.Table()))
}

func checkStyle(_ context.Context, root string) (string, error) {
	tree, err := archtest.Read(root)
	if err != nil {
		return "", err
	}
	return "", faults(archtest.Style(tree))
}

func checkCeilings(_ context.Context, root string) (string, error) {
	tree, err := archtest.Read(root)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("files <= %d lines, functions <= %d", archtest.MaxFile, archtest.MaxFunction), faults(archtest.Sizes(tree))
}

func checkHelper(_ context.Context, root string) (string, error) {
	tree, err := archtest.Read(root)
	if err != nil {
		return "", err
	}
	return helperSize(tree)
}

func helperSize(tree *archtest.Tree) (string, error) {
	if tree.Package("helper") == nil {
		return "not built: there is no helper", nil
	}
	var closure []string
	for _, part := range helperParts() {
		if tree.Package(part) == nil {
			continue
		}
		linked, err := archtest.Closure(tree, part)
		if err != nil {
			return "", err
		}
		closure = append(closure, linked...)
	}
	slices.Sort(closure)
	closure = slices.Compact(closure)
	own, linked := archtest.Lines(tree, "helper"), archtest.Lines(tree, closure...)
	note := fmt.Sprintf("%d lines of %d; all of ours in its process %d of %d, the aim is %d (%d packages)",
		own, maxHelper, linked, maxHelperClosure, helperAim, len(closure))
	var over []string
	if own > maxHelper {
		over = append(over, fmt.Sprintf("package helper has %d lines, the ceiling is %d", own, maxHelper))
	}
	if linked > maxHelperClosure {
		over = append(over, fmt.Sprintf("helper links %d lines of ours, the ceiling is %d:", linked, maxHelperClosure))
		for _, folder := range closure {
			over = append(over, fmt.Sprintf("%6d %s", archtest.Lines(tree, folder), folder))
		}
	}
	return note, faults(over)
}
