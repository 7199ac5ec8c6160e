package bpfmap

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Dump returns the content of the tables of Services, endpoints, nodes and devices as sorted text, a line a row, for tests and
// people to compare. Ids are shown by what they lead to, so that two ways to the same state give the same text.
func (m *Maps) Dump() (string, error) {
	var lines []string
	services, err := m.Services()
	if err != nil {
		return "", err
	}
	ranges, err := m.SourceRanges()
	if err != nil {
		return "", err
	}
	reached := map[uint32]bool{}
	to := func(id uint32) string {
		reached[id] = true
		s := services.Services[id]
		var to []string
		for _, b := range s.Backends[:min(int(s.Row.Slots), len(s.Backends))] {
			to = append(to, b.Address.String())
		}
		slices.Sort(to)
		text := "[" + strings.Join(to, " ") + "]"
		if s.Row.Affinity > 0 {
			text += fmt.Sprintf(" affinity %ds", s.Row.Affinity)
		}
		if s.Row.Silent {
			text += " silent"
		}
		if r := ranges[id]; len(r) > 0 {
			slices.SortFunc(r, netip.Prefix.Compare)
			text += fmt.Sprintf(" for %v", r)
		}
		return text
	}
	for f, t := range services.Frontends {
		line := fmt.Sprintf("frontend %s/%s -> %s", f.Address, f.Protocol, to(t.Service))
		if t.Outside != t.Service {
			line += " outside " + to(t.Outside)
		}
		if t.Restricted {
			line += " restricted"
		}
		lines = append(lines, line)
	}
	for id, s := range services.Services {
		if !reached[id] {
			lines = append(lines, fmt.Sprintf("service without a frontend: %d slots", len(s.Backends)))
		}
		if len(s.Backends) != int(s.Row.Slots) {
			lines = append(lines, fmt.Sprintf("service counts %d slots but has %d", s.Row.Slots, len(s.Backends)))
		}
	}
	endpoints, err := m.Endpoints()
	if err != nil {
		return "", err
	}
	for _, e := range endpoints {
		lines = append(lines, fmt.Sprintf("endpoint %s -> device %d %s", e.Address, e.IfIndex, e.PodMAC))
	}
	nodes, err := m.Nodes().List()
	if err != nil {
		return "", err
	}
	for a, n := range nodes {
		lines = append(lines, fmt.Sprintf("node %s local=%t", a, n.Local))
	}
	devices, err := m.Devices().List()
	if err != nil {
		return "", err
	}
	for index, d := range devices {
		line := fmt.Sprintf("device %d", index)
		for _, a := range []netip.Addr{d.Masquerade, d.Masquerade6} {
			if a.IsValid() {
				line += " masquerade=" + a.String()
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	if len(lines) == 0 {
		return "", nil
	}
	return strings.Join(lines, "\n") + "\n", nil
}
