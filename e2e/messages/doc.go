// Package messages holds the tests of the way from a device's outbox to the
// fleet's registry: real link, real brokers, real dispatch, real database.
package messages
