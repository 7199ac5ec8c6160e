package rtnl

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestDump(t *testing.T) {
	failed := errors.New("failed")
	tests := []struct {
		name        string
		interrupted int
		err         error
		want        error
		calls       int
	}{
		{"at once", 0, nil, nil, 1},
		{"interrupted twice", 2, nil, nil, 3},
		{"another error", 1, failed, failed, 2},
		{"never still", 1000, nil, netlink.ErrDumpInterrupted, attempts},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			calls := 0
			got, err := Dump(func() ([]int, error) {
				calls++
				if calls <= test.interrupted {
					return []int{1}, netlink.ErrDumpInterrupted
				}
				return []int{1, 2}, test.err
			})
			if !errors.Is(err, test.want) || calls != test.calls {
				t.Errorf("error %v after %d calls, want %v after %d", err, calls, test.want, test.calls)
			}
			if err == nil && !slices.Equal(got, []int{1, 2}) {
				t.Errorf("got %v of an interrupted dump", got)
			}
		})
	}
}
