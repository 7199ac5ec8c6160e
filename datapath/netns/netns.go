// Package netns tells network namespaces apart as the kernel does.
package netns

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Cookie returns the number that names the network namespace of the calling thread until the machine restarts; no other
// namespace ever gets it. It is 0 on kernels before 5.14, which do not tell.
func Cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("network namespace cookie: %w", err)
	}
	return cookie, nil
}
