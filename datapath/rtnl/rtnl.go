// Package rtnl lists what the kernel's routing netlink knows.
package rtnl

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// attempts bounds how often a list is asked for. A machine that changes its devices during every one of so many dumps is not
// going to hold still.
const attempts = 16

// Dump calls list until the kernel gives a list that did not change while it was read (NLM_F_DUMP_INTR, see
// https://docs.kernel.org/userspace-api/netlink/intro.html#dump-consistency), and returns that. Other errors are list's own.
func Dump[T any](list func() ([]T, error)) ([]T, error) {
	for i := 1; ; i++ {
		items, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == attempts {
			return items, err
		}
	}
}
