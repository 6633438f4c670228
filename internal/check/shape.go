package main

import (
	"context"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/archtest"
)

// Ceilings of the code that runs as root, in lines without tests.
const (
	maxHelper        = 1500 // the package helper itself
	maxHelperClosure = 5000 // all of our own code that it links
)

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
	closure, err := archtest.Closure(tree, "helper")
	if err != nil {
		return "", err
	}
	own, linked := archtest.Lines(tree, "helper"), archtest.Lines(tree, closure...)
	note := fmt.Sprintf("%d lines of %d; with all it links of ours %d of %d (%d packages)", own, maxHelper, linked, maxHelperClosure, len(closure))
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
