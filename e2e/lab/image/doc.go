// Package image builds what the machines of the lab boot from: a minimal Debian 12
// with a boot loader, two slots and a data partition.
//
// Its promise: no loop device, no mount, no program of the product replaced; the
// same inputs give the same images, and what was built once is taken from a cache
// whose keys are hashes of all that went in, this package's source included.
package image
