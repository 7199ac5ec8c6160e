// Package observe shows what the data path does, from the kernel's own tables: rows for people and for JSON, and metrics. It
// needs no running node, only the pinned maps.
package observe

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// Names gives the API's names to what the kernel knows by address. Both maps may be nil.
type Names struct {
	// Services are by any address and port at which they answer; a node port's address is [desired.AnyLocal].
	Services map[netip.AddrPort]string
	Pods     map[netip.Addr]string
}

// Row is one line of a table.
type Row interface {
	Header() []string
	Cells() []string
}

// WriteTable writes the rows as a table with aligned columns, or a sentence when there are none.
func WriteTable[R Row](w io.Writer, rows []R) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "none")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(rows[0].Header(), "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r.Cells(), "\t"))
	}
	return t.Flush()
}

// Service is an address at which a Service answers.
type Service struct {
	Frontend string `json:"frontend"` // address:port
	Protocol string `json:"protocol"`
	Name     string `json:"name,omitempty"`
	// ID is what flows name the Service by.
	ID       uint32   `json:"id"`
	Backends []string `json:"backends"`
}

// Header names the columns.
func (Service) Header() []string {
	return []string{"FRONTEND", "PROTOCOL", "SERVICE", "ID", "BACKENDS"}
}

// Cells are the columns of one row. A node port shows as * or [*]: it answers at every address of the node.
func (s Service) Cells() []string {
	backends := strings.Join(s.Backends, ",")
	if len(s.Backends) > 4 {
		backends = fmt.Sprintf("%s and %d more", strings.Join(s.Backends[:4], ","), len(s.Backends)-4)
	}
	frontend := s.Frontend
	if f, err := netip.ParseAddrPort(s.Frontend); err == nil && f.Addr().IsUnspecified() {
		if frontend = fmt.Sprintf("*:%d", f.Port()); f.Addr().Is6() {
			frontend = fmt.Sprintf("[*]:%d", f.Port())
		}
	}
	return []string{frontend, s.Protocol, cmp.Or(s.Name, "-"), fmt.Sprint(s.ID), cmp.Or(backends, "none: refused")}
}

// Services lists all frontends by address.
func Services(m *bpfmap.Maps, names Names) ([]Service, error) {
	tables, err := m.Services()
	if err != nil {
		return nil, err
	}
	rows := make([]Service, 0, len(tables.Frontends))
	for _, f := range sortedFrontends(tables) {
		id := tables.Frontends[f].Service
		rows = append(rows, Service{
			Frontend: f.Address.String(), Protocol: f.Protocol.String(), Name: names.Services[f.Address], ID: id,
			Backends: addresses(tables.Services[id]),
		})
	}
	return rows, nil
}

func sortedFrontends(tables bpfmap.ServiceTables) []desired.Frontend {
	frontends := make([]desired.Frontend, 0, len(tables.Frontends))
	for f := range tables.Frontends {
		frontends = append(frontends, f)
	}
	slices.SortFunc(frontends, desired.Frontend.Compare)
	return frontends
}

// addresses lists the backends that a service chooses from.
func addresses(s bpfmap.Service) []string {
	list := []string{}
	for _, b := range s.Backends[:min(int(s.Row.Slots), len(s.Backends))] {
		list = append(list, b.Address.String())
	}
	slices.Sort(list)
	return list
}

// Backend is an address that serves, and what leads there.
type Backend struct {
	Address   string   `json:"address"` // address:port
	Protocol  string   `json:"protocol"`
	Pod       string   `json:"pod,omitempty"`
	Frontends []string `json:"frontends"`
}

// Header names the columns.
func (Backend) Header() []string { return []string{"BACKEND", "PROTOCOL", "POD", "FRONTENDS"} }

// Cells are the columns of one row.
func (b Backend) Cells() []string {
	return []string{b.Address, b.Protocol, cmp.Or(b.Pod, "-"), strings.Join(b.Frontends, ",")}
}

// Backends lists all backends by address.
func Backends(m *bpfmap.Maps, names Names) ([]Backend, error) {
	tables, err := m.Services()
	if err != nil {
		return nil, err
	}
	reached := map[desired.Backend][]string{}
	for _, f := range sortedFrontends(tables) {
		s := tables.Services[tables.Frontends[f].Service]
		for _, b := range s.Backends[:min(int(s.Row.Slots), len(s.Backends))] {
			b.Protocol = f.Protocol
			reached[b] = append(reached[b], f.Address.String())
		}
	}
	keys := make([]desired.Backend, 0, len(reached))
	for b := range reached {
		keys = append(keys, b)
	}
	slices.SortFunc(keys, desired.Backend.Compare)
	rows := make([]Backend, 0, len(keys))
	for _, b := range keys {
		rows = append(rows, Backend{
			Address: b.Address.String(), Protocol: b.Protocol.String(), Pod: names.Pods[b.Address.Addr()], Frontends: reached[b],
		})
	}
	return rows, nil
}

// Endpoint is a pod of this node.
type Endpoint struct {
	Address string `json:"address"`
	Pod     string `json:"pod,omitempty"`
	// Device is the index of the host side of the pod's pair, MAC the hardware address of the pod's side.
	Device int    `json:"device"`
	MAC    string `json:"mac"`
}

// Header names the columns.
func (Endpoint) Header() []string { return []string{"ADDRESS", "POD", "DEVICE", "MAC"} }

// Cells are the columns of one row.
func (e Endpoint) Cells() []string {
	return []string{e.Address, cmp.Or(e.Pod, "-"), fmt.Sprint(e.Device), e.MAC}
}

// Endpoints lists the pods of this node by address.
func Endpoints(m *bpfmap.Maps, names Names) ([]Endpoint, error) {
	list, err := m.Endpoints()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b desired.Endpoint) int { return a.Address.Compare(b.Address) })
	rows := make([]Endpoint, 0, len(list))
	for _, e := range list {
		rows = append(rows, Endpoint{
			Address: e.Address.String(), Pod: names.Pods[e.Address], Device: e.IfIndex, MAC: e.PodMAC.String(),
		})
	}
	return rows, nil
}

// Flow is an entry of the flow table.
type Flow struct {
	Protocol string `json:"protocol"`
	// From began the flow, To answers, as the packets of this side show them.
	From string `json:"from"`
	To   string `json:"to"`
	// Source and Destination are what packets get instead, empty where they stay.
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	State       string `json:"state"`
	// IdleSeconds is how long no packet came, as exact as the collector's period.
	IdleSeconds int    `json:"idleSeconds"`
	FromPod     string `json:"fromPod,omitempty"`
	ToPod       string `json:"toPod,omitempty"`
}

// Header names the columns.
func (Flow) Header() []string {
	return []string{"PROTOCOL", "FROM", "TO", "NEW SOURCE", "NEW DESTINATION", "STATE", "IDLE", "FROM POD", "TO POD"}
}

// Cells are the columns of one row.
func (f Flow) Cells() []string {
	return []string{
		f.Protocol, f.From, f.To, cmp.Or(f.Source, "-"), cmp.Or(f.Destination, "-"), f.State,
		(time.Duration(f.IdleSeconds) * time.Second).String(), cmp.Or(f.FromPod, "-"), cmp.Or(f.ToPod, "-"),
	}
}

// Flows lists the flow table, sorted. period is the step of its clock.
func Flows(m *bpfmap.Maps, names Names, period time.Duration) ([]Flow, error) {
	generation, err := m.Generation()
	if err != nil {
		return nil, err
	}
	rows := []Flow{}
	err = m.Flows(func(f bpfmap.Flow) bool {
		rows = append(rows, flowRow(f, names, generation, period))
		return true
	})
	slices.SortFunc(rows, func(a, b Flow) int {
		return cmp.Or(strings.Compare(a.Protocol, b.Protocol), strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	})
	return rows, err
}

func flowRow(f bpfmap.Flow, names Names, generation uint32, period time.Duration) Flow {
	from, to := f.Ends()
	row := Flow{
		Protocol: protocolName(f.Key.Proto), From: from.String(), To: to.String(), State: state(f),
		FromPod: names.Pods[from.Addr()], ToPod: names.Pods[to.Addr()],
	}
	if f.Value.Flags&abi.CTRewriteSrc != 0 {
		row.Source = netip.AddrPortFrom(f.Value.Src.Netip(), abi.HostPort(f.Value.Sport)).String()
	}
	if f.Value.Flags&abi.CTRewriteDst != 0 {
		row.Destination = netip.AddrPortFrom(f.Value.Dst.Netip(), abi.HostPort(f.Value.Dport)).String()
	}
	if idle := int32(generation - f.Value.LastSeen); idle > 0 {
		row.IdleSeconds = int(idle) * int(period/time.Second)
	}
	return row
}

func protocolName(proto uint8) string {
	switch proto {
	case 1:
		return "ICMP"
	case 58:
		return "ICMPv6"
	}
	return desired.Protocol(proto).String()
}

// state says in a word how far a flow has come.
func state(f bpfmap.Flow) string {
	has := func(flag abi.ConntrackFlag) bool { return f.Value.Flags&flag != 0 }
	switch {
	case has(abi.CTRst):
		return "reset"
	case has(abi.CTFinFrom) && has(abi.CTFinTo):
		return "closed"
	case has(abi.CTFinFrom), has(abi.CTFinTo):
		return "closing"
	case has(abi.CTReplied):
		return "established"
	}
	return "opening"
}

// Drop counts what was refused for one reason at one place.
type Drop struct {
	Reason  string `json:"reason"`
	Place   string `json:"place"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Header names the columns.
func (Drop) Header() []string { return []string{"REASON", "PLACE", "PACKETS", "BYTES"} }

// Cells are the columns of one row.
func (d Drop) Cells() []string {
	return []string{d.Reason, d.Place, fmt.Sprint(d.Packets), fmt.Sprint(d.Bytes)}
}

// Drops lists the reasons and places that were counted at least once, the most frequent first.
func Drops(m *bpfmap.Maps) ([]Drop, error) {
	all, err := m.Drops()
	if err != nil {
		return nil, err
	}
	rows := []Drop{}
	for _, d := range all {
		if d.Packets > 0 {
			rows = append(rows, Drop(d))
		}
	}
	slices.SortStableFunc(rows, func(a, b Drop) int { return cmp.Compare(b.Packets, a.Packets) })
	return rows, nil
}
