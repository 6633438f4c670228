package credential

import (
	"fmt"
	"net"
	"strings"
	"syscall"
)

// PeerUser is who connected, as the kernel noted it then. User 0 of a name space is
// the user who made it, here.
func PeerUser(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if controlErr != nil {
		return 0, controlErr
	}
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// parseAddress reads whom the manager asks for. An abstract address begins with "@"
// in Go, and ends before its first zero byte.
func parseAddress(peer net.Addr) (unit, name string, err error) {
	address := ""
	if peer != nil {
		address = peer.String()
	}
	parts := strings.Split(address, "/")
	if len(parts) != 4 || parts[1] != "unit" || parts[2] == "" || parts[3] == "" || !isNonce(parts[0]) {
		return "", "", fmt.Errorf("its address is %.120q, not @HEX/unit/UNIT/NAME", address)
	}
	return parts[2], parts[3], nil
}

// isNonce accepts "@" and up to 16 lower-case hex digits.
func isNonce(s string) bool {
	digits, found := strings.CutPrefix(s, "@")
	return found && digits != "" && len(digits) <= 16 && strings.Trim(digits, "0123456789abcdef") == ""
}
