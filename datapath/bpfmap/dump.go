package bpfmap

import (
	"fmt"
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
	reached := map[uint32]bool{}
	for f, id := range services.Frontends {
		reached[id] = true
		s := services.Services[id]
		var to []string
		for _, b := range s.Backends[:min(int(s.Slots), len(s.Backends))] {
			to = append(to, b.Address.String())
		}
		slices.Sort(to)
		lines = append(lines, fmt.Sprintf("frontend %s/%s -> [%s]", f.Address, f.Protocol, strings.Join(to, " ")))
	}
	for id, s := range services.Services {
		if !reached[id] {
			lines = append(lines, fmt.Sprintf("service without a frontend: %d slots", len(s.Backends)))
		}
		if len(s.Backends) != int(s.Slots) {
			lines = append(lines, fmt.Sprintf("service counts %d slots but has %d", s.Slots, len(s.Backends)))
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
		lines = append(lines, fmt.Sprintf("device %d masquerade=%s", index, d.Masquerade))
	}
	slices.Sort(lines)
	if len(lines) == 0 {
		return "", nil
	}
	return strings.Join(lines, "\n") + "\n", nil
}
