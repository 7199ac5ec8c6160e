package podnet

import (
	"errors"
	"fmt"

	"github.com/skep-io/skep/datapath/rtnl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// filterName marks our filters; filterPriority is the place that the first takes among those of others.
const (
	filterName     = "skep"
	filterPriority = 1
)

// Filters are two loaded programs: Ingress sees what a device receives, Egress what it sends.
type Filters struct{ Ingress, Egress int }

// AttachFilters attaches programs to a device as direct-action filters. A packet passes the further ones if those before leave it to
// them. It serves kernels before 6.6, which have no links for this, and replaces the filters it attached before.
// They hold the programs without any pin, and go with the device.
func AttachFilters(ifindex int, chain ...Filters) error {
	if err := netlink.QdiscAdd(clsact(ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("clsact on device %d: %w", ifindex, err)
	}
	// What arrives is handled last: by then replies find their way out.
	for i, f := range chain {
		if err := netlink.FilterReplace(filter(ifindex, netlink.HANDLE_MIN_EGRESS, filterPriority+i, f.Egress)); err != nil {
			return fmt.Errorf("egress filter on device %d: %w", ifindex, err)
		}
	}
	for i, f := range chain {
		if err := netlink.FilterReplace(filter(ifindex, netlink.HANDLE_MIN_INGRESS, filterPriority+i, f.Ingress)); err != nil {
			return fmt.Errorf("ingress filter on device %d: %w", ifindex, err)
		}
	}
	return nil
}

// DetachFilters removes what AttachFilters attached, and leaves the filters of others. A device that is gone is no error.
func DetachFilters(ifindex int) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	others := 0
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := rtnl.Dump(func() ([]netlink.Filter, error) { return netlink.FilterList(link, parent) })
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // no device, or nothing that could hold filters
		}
		if err != nil {
			return fmt.Errorf("filters of device %d: %w", ifindex, err)
		}
		for _, f := range filters {
			if bpf, ok := f.(*netlink.BpfFilter); !ok || bpf.Name != filterName {
				others++
				continue
			}
			if err := netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove filter of device %d: %w", ifindex, err)
			}
		}
	}
	if others > 0 {
		return nil
	}
	if err := netlink.QdiscDel(clsact(ifindex)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove clsact of device %d: %w", ifindex, err)
	}
	return nil
}

func clsact(ifindex int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0),
	}}
}

func filter(ifindex int, parent uint32, priority, program int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: parent, Handle: 1, Priority: uint16(priority), Protocol: unix.ETH_P_ALL,
		},
		Fd: program, Name: filterName, DirectAction: true,
	}
}

// FilterPrograms returns the numbers of the programs that are filters of a device, in the order in which packets pass them: at the
// side of what the device receives, or of what it sends.
func FilterPrograms(ifindex int, ingress bool) ([]uint32, error) {
	parent := uint32(netlink.HANDLE_MIN_EGRESS)
	if ingress {
		parent = netlink.HANDLE_MIN_INGRESS
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := rtnl.Dump(func() ([]netlink.Filter, error) { return netlink.FilterList(link, parent) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil // nothing that could hold filters
	}
	if err != nil {
		return nil, fmt.Errorf("filters of device %d: %w", ifindex, err)
	}
	var ids []uint32
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok {
			ids = append(ids, uint32(bpf.Id))
		}
	}
	return ids, nil
}
