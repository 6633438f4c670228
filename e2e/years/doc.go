// Package years holds the test of a gateway's certificates over its life: the real
// identity, clock and link of the agent with an emulated TPM, against a real fleet
// server over real TLS and MQTT, by a calendar that the test turns.
package years
