// Package e2e tells the life of a gateway, in stories: tests that run whole programs,
// the real packages and the real boot loader in the machines of package lab.
package e2e
