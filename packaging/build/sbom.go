package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// bom is the part of CycloneDX 1.6 that says what a Go program is made of.
type bom struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Ref     string `json:"bom-ref"`
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	PURL    string `json:"purl,omitempty"`
	Hashes  []hash `json:"hashes,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// describe writes what is linked into binary: the software bill of materials and
// the licences.
func describe(ctx context.Context, s source, program, binary, stage string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read what is linked: %w", err)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read binary: %w", err)
	}
	raw, err := json.MarshalIndent(newBOM(s, program, info, sha256.Sum256(content)), "", "  ")
	if err != nil {
		return fmt.Errorf("encode bill of materials: %w", err)
	}
	if err := os.WriteFile(filepath.Join(stage, "sbom.cdx.json"), append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("write bill of materials: %w", err)
	}
	text, err := notices(ctx, info)
	if err != nil {
		return err
	}
	return writeGzip(filepath.Join(stage, "notices.gz"), text)
}

func newBOM(s source, program string, info *debug.BuildInfo, digest [32]byte) bom {
	main := component{
		Ref: program, Type: "application", Name: program, Version: s.packageVersion(),
		Hashes: []hash{{"SHA-256", hex.EncodeToString(digest[:])}},
	}
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	parts := []component{library("std", goVersion, "pkg:golang/stdlib@"+goVersion)}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, library(m.Path, m.Version, "pkg:golang/"+m.Path+"@"+m.Version))
	}
	slices.SortFunc(parts, func(a, b component) int { return strings.Compare(a.Ref, b.Ref) })
	var refs []string
	for _, p := range parts {
		refs = append(refs, p.Ref)
	}
	return bom{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Metadata:   metadata{Timestamp: s.time.Format(time.RFC3339), Component: main},
		Components: parts, Dependencies: []dependency{{main.Ref, refs}},
	}
}

func library(name, version, purl string) component {
	return component{Ref: purl, Type: "library", Name: name, Version: version, PURL: purl}
}
