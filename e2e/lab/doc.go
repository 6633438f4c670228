// Package lab boots gateways in virtual machines, for tests that need what only a
// machine has: firmware that measures, a boot loader that counts, a disk that loses
// its cache with the power.
//
//	l := lab.Open(t)
//	vm := l.Boot(lab.Machine{Disk: disk})
//	vm.Run("gatewarden status")
//	vm.PowerCut()
//	vm.PowerOn()
//
// Its promise: a machine runs alone, ends with its test, and leaves its logs when
// that fails. Every wait is for a condition, with a limit of at least five times what
// it takes on an idle host. Nothing is skipped silently: without GATEWARDEN_E2E=1 a
// test says so, with it a missing tool is a failure.
package lab
