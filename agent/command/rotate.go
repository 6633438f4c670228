package command

import "github.com/gatewarden/gatewarden/internal/policy"

// rotate renews the device's certificate with a new key, before its time.
func rotate(d Deps) Command { return plain(policy.VerbRotate, d.Rotate) }
