package freeport

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestAddressesAreDifferentAndNotAmongThoseThatTheKernelGivesOut(t *testing.T) {
	addresses, err := Addresses(200)
	if err != nil || len(addresses) != 200 {
		t.Fatalf("%d addresses, %v", len(addresses), err)
	}
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.Atoi(strings.Fields(string(text))[0])
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, address := range addresses {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		if number, err := strconv.Atoi(port); err != nil || number >= first || seen[address] {
			t.Errorf("%s comes twice, or is one that the kernel gives out from %d on (%v)", address, first, err)
		}
		seen[address] = true
	}
}
