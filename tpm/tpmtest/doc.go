// Package tpmtest gives tests and the demo real emulated TPMs (swtpm).
//
// Its promise: each machine has a chip of its own, started in milliseconds; many
// processes share it as they would share /dev/tpmrm0; its power can be cut at any
// moment; and nothing of it outlives the process that started it. It is never part
// of what ships on a device.
package tpmtest
