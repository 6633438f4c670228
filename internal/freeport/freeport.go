// Package freeport finds loopback addresses for servers of tests and of the demo
// that have to know theirs before they listen there.
//
// Its promise: nobody listened on them, and the kernel gives them to nobody
// meanwhile. Of its own choice (port 0, and each outgoing connection) it takes
// ports from 32768 up, so that one that it chose and got back is soon somebody
// else's.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
)

// From lowest on, and below what the kernel gives out.
const lowest, count = 10_000, 22_000

// Addresses returns n of them, no two the same.
func Addresses(n int) ([]string, error) {
	var addresses []string
	for len(addresses) < n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(count)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
