package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctlRoot is where the kernel's network settings are; what is below net/ belongs to the namespace of the thread.
const sysctlRoot = "/proc/sys"

// A setting of the kernel: its name below sysctlRoot, and its value. Their order counts.
type sysctl struct{ name, value string }

// podSysctls are set in each pod's namespace: any process may ping and listen on any port of an address that is the pod's
// alone. IPv6 stays off on the device as long as the pod has no IPv6 address, lest it send router solicitations for one. With
// one the kernel adds no other: nobody advertises routers or prefixes here.
func podSysctls(device string, six bool) []sysctl {
	conf6 := "net/ipv6/conf/" + device
	list := []sysctl{
		{"net/ipv4/ping_group_range", "0 2147483647"},
		{"net/ipv4/ip_unprivileged_port_start", "0"},
	}
	if !six {
		return append(list, sysctl{conf6 + "/disable_ipv6", "1"})
	}
	return append(list,
		sysctl{"net/ipv6/conf/lo/disable_ipv6", "0"},
		sysctl{conf6 + "/accept_ra", "0"},
		sysctl{conf6 + "/accept_dad", "0"},
		sysctl{conf6 + "/addr_gen_mode", addrGenNone},
		sysctl{conf6 + "/disable_ipv6", "0"})
}

// addrGenNone is the addr_gen_mode in which a device gets no link-local address.
const addrGenNone = "1"

// hostDeviceSysctls are set on the host side of a pod's veth pair. Only the device is touched: what the pod sends may be
// forwarded, and its source address is checked by the pod program, which knows better than the route does. The device has no
// address of its own, also not in IPv6.
func hostDeviceSysctls(device string, six bool) []sysctl {
	conf4, conf6 := "net/ipv4/conf/"+device, "net/ipv6/conf/"+device
	list := []sysctl{{conf4 + "/forwarding", "1"}, {conf4 + "/rp_filter", "0"}}
	if !six {
		return append(list, sysctl{conf6 + "/disable_ipv6", "1"})
	}
	list = append(list, sysctl{conf6 + "/accept_ra", "0"}, sysctl{conf6 + "/addr_gen_mode", addrGenNone}, sysctl{conf6 + "/disable_ipv6", "0"})
	return append(list, forward6(device)...)
}

// forward6 lets a device forward IPv6. The first setting is what the programs ask for when they route. The stack itself, which
// gets what they leave to it, forwards for a single device since 6.17; before that it does so for all devices or none, and
// making a whole machine a router is not for us to decide.
func forward6(device string) []sysctl {
	conf6 := "net/ipv6/conf/" + device
	return []sysctl{{conf6 + "/forwarding", "1"}, {conf6 + "/force_forwarding", "1"}}
}

func writeSysctls(list []sysctl) error {
	for _, s := range list {
		if err := writeSysctl(s.name, s.value); err != nil {
			return err
		}
	}
	return nil
}

// writeSysctl sets one setting. A kernel without IPv6 has no IPv6 settings, and an older one lacks some; neither needs them.
func writeSysctl(name, value string) error {
	err := os.WriteFile(filepath.Join(sysctlRoot, name), []byte(value), 0)
	if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "net/ipv6/") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sysctl %s = %s: %w", name, value, err)
	}
	return nil
}

// readSysctl returns the value of one setting.
func readSysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sysctlRoot, name))
	if err != nil {
		return "", fmt.Errorf("sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// sysctlRecord is the file that notes what the host's settings were before they were changed. It is written before the
// change, and the first value noted stays, so that it is right whenever the process is killed.
type sysctlRecord string

// recordIn is the record kept in dir.
func recordIn(dir string) sysctlRecord { return sysctlRecord(filepath.Join(dir, "sysctls.json")) }

func (r sysctlRecord) load() (map[string]string, error) {
	values := map[string]string{}
	b, err := os.ReadFile(string(r))
	if errors.Is(err, fs.ErrNotExist) {
		return values, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return values, nil
}

// set changes a setting and notes what it was.
func (r sysctlRecord) set(name, value string) error {
	before, err := readSysctl(name)
	if err != nil || before == value {
		return err
	}
	values, err := r.load()
	if err != nil {
		return err
	}
	if _, noted := values[name]; !noted {
		values[name] = before
		if err := r.save(values); err != nil {
			return err
		}
	}
	return writeSysctl(name, value)
}

func (r sysctlRecord) save(values map[string]string) error {
	b, err := json.Marshal(values)
	if err != nil {
		return err
	}
	temporary := string(r) + ".new"
	if err := os.WriteFile(temporary, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, string(r))
}

// restore sets every noted setting to what it was and forgets the note. A device that is gone took its settings with it.
func (r sysctlRecord) restore() error {
	values, err := r.load()
	if err != nil {
		return err
	}
	var errs []error
	for name, value := range values {
		if err := writeSysctl(name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(string(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
