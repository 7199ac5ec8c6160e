package observe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// Verdicts are what happened to the packet of an [Event].
var Verdicts = []string{"allowed", "denied", "dropped"}

// Event is what happened to a flow.
type Event struct {
	Time time.Time `json:"time"`
	// Event is "new", "end", "packet" or "drop"; Verdict is one of [Verdicts]: denied ones are policies'.
	Event    string `json:"event"`
	Verdict  string `json:"verdict"`
	Reason   string `json:"reason,omitempty"` // of a drop
	Place    string `json:"place"`
	Protocol string `json:"protocol"`
	// From and To are the ends of the packet as it came: address:port, without the port where it has none.
	From    string `json:"from"`
	To      string `json:"to"`
	FromPod string `json:"fromPod,omitempty"`
	// ToPod is the pod that the packet goes to, also by the address of a Service.
	ToPod string `json:"toPod,omitempty"`
	// Source and Destination are what the ends become, empty where they stay.
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	Service     string `json:"service,omitempty"`
	ServiceID   uint32 `json:"serviceID,omitempty"`
	// EgressSet and IngressSet are the sets of policies that decided: of the sender and of the receiver.
	EgressSet  uint32 `json:"egressSet,omitempty"`
	IngressSet uint32 `json:"ingressSet,omitempty"`
	Device     uint32 `json:"device,omitempty"`
	Bytes      uint32 `json:"bytes,omitempty"`
	Flags      string `json:"flags,omitempty"` // TCP
	Reply      bool   `json:"reply,omitempty"` // from the end that answers
}

// Line is the event as one line of text; wide ones have all that is known.
func (e Event) Line(wide bool) string {
	who := func(address, pod string) string {
		if pod == "" {
			return address
		}
		return address + " (" + pod + ")"
	}
	to := e.To
	if e.Service != "" {
		to += " (" + e.Service + ")"
	}
	if e.Destination != "" {
		to += " => " + who(e.Destination, e.ToPod)
	} else {
		to = who(to, e.ToPod)
	}
	s := fmt.Sprintf("%s %-6s %-7s %-4s %s -> %s", e.Time.Format("15:04:05.000000"), e.Event, e.Verdict, e.Protocol, who(e.From, e.FromPod), to)
	if e.Reason != "" {
		s += " " + e.Reason
	}
	if !wide {
		return s
	}
	s += " at " + e.Place
	for _, f := range []struct {
		name  string
		value any
		zero  bool
	}{
		{"source", e.Source, e.Source == ""}, {"service", e.ServiceID, e.ServiceID == 0}, {"egress-set", e.EgressSet, e.EgressSet == 0},
		{"ingress-set", e.IngressSet, e.IngressSet == 0}, {"device", e.Device, e.Device == 0}, {"bytes", e.Bytes, e.Bytes == 0},
		{"flags", e.Flags, e.Flags == ""}, {"reply", e.Reply, !e.Reply},
	} {
		if !f.zero {
			s += fmt.Sprintf(" %s=%v", f.name, f.value)
		}
	}
	return s
}

// Teller turns the kernel's events into ones with names. It is for one goroutine.
type Teller struct {
	names    Names
	services map[uint32]string
	kernel   abi.Names
	// boot is the wall clock at the zero of the kernel's.
	boot time.Time
}

// NewTeller returns one that knows no names of Services and pods yet: see SetNames.
func NewTeller() (*Teller, error) {
	kernel, err := abi.ReadNames()
	if err != nil {
		return nil, err
	}
	t, err := now()
	if err != nil {
		return nil, err
	}
	return &Teller{kernel: kernel, boot: time.Now().Add(-time.Duration(t))}, nil
}

// SetNames gives it the API's names. The kernel's tables tell which Service an id is.
func (t *Teller) SetNames(m *bpfmap.Maps, names Names) error {
	tables, err := m.Services()
	if err != nil {
		return err
	}
	t.names, t.services = names, map[uint32]string{}
	for f, target := range tables.Frontends {
		if name := names.Services[f.Address]; name != "" {
			t.services[target.Service], t.services[target.Outside] = name, name
		}
	}
	return nil
}

// Knows says whether the names of the event's Service and pods are known, as far as it has any.
func (t *Teller) Knows(e abi.Event) bool {
	return e.Service == 0 || t.services[e.Service] != ""
}

// Tell names all that an event is about.
func (t *Teller) Tell(e abi.Event) Event {
	src, dst := addrOf(e.Src), addrOf(e.Dst)
	row := Event{
		Time: t.boot.Add(time.Duration(e.Time)), Event: nameOf(t.kernel.Kinds, e.Kind), Verdict: Verdicts[0],
		Place: nameOf(t.kernel.Places, e.Place), Protocol: protocolName(e.Proto), From: endName(src, e.Sport), To: endName(dst, e.Dport),
		FromPod: t.names.Pods[src], ToPod: t.names.Pods[dst], Service: t.services[e.Service], ServiceID: e.Service,
		EgressSet: e.Egress, IngressSet: e.Ingress, Device: e.Ifindex, Bytes: e.Length, Flags: flagNames(e), Reply: e.Reply != 0,
	}
	if e.Place == uint8(abi.PlaceSock) && src == netip.IPv6Unspecified() {
		row.From = "node"
	}
	if e.NewSport != 0 || e.NewSrc != (abi.Addr{}) {
		row.Source = endName(addrOf(e.NewSrc), e.NewSport)
	}
	if e.NewDport != 0 || e.NewDst != (abi.Addr{}) {
		row.Destination = endName(addrOf(e.NewDst), e.NewDport)
		row.ToPod = t.names.Pods[addrOf(e.NewDst)]
	}
	if e.Kind == uint8(abi.EventDrop) {
		row.Reason, row.Verdict = nameOf(t.kernel.Reasons, e.Reason), "dropped"
		if strings.HasPrefix(row.Reason, "policy_") {
			row.Verdict = "denied"
		}
	}
	return row
}

func nameOf(names []string, n uint8) string {
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprint(n)
}

func endName(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, abi.HostPort(port)).String()
}

// flagNames lists the TCP flags of an event.
func flagNames(e abi.Event) string {
	if e.Proto != uint8(desired.TCP) {
		return ""
	}
	var set []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if e.Tcp&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, ",")
}

// Filter chooses events. Empty fields choose all.
type Filter struct {
	// Pod is at either end: namespace/name or name. Service is namespace/name or name.
	Pod, Service    string
	Verdict, Reason string
	// From and To are an address, a prefix, or a pod as above.
	From, To string
	Protocol string
}

// Validate says what no event can ever be.
func (f Filter) Validate() error {
	names, err := abi.ReadNames()
	if err != nil {
		return err
	}
	if f.Verdict != "" && !slices.Contains(Verdicts, f.Verdict) {
		return fmt.Errorf("--verdict %q: there are %s", f.Verdict, strings.Join(Verdicts, ", "))
	}
	if f.Reason != "" && !slices.Contains(names.Reasons, f.Reason) {
		return fmt.Errorf("--reason %q: there are %s", f.Reason, strings.Join(names.Reasons, ", "))
	}
	return nil
}

// Match says whether the filter chooses an event.
func (f Filter) Match(e Event) bool {
	service, _, _ := strings.Cut(e.Service, ":")
	return (f.Pod == "" || isNamed(e.FromPod, f.Pod) || isNamed(e.ToPod, f.Pod)) &&
		(f.Service == "" || isNamed(service, f.Service)) &&
		(f.Verdict == "" || f.Verdict == e.Verdict) &&
		(f.Reason == "" || f.Reason == e.Reason) &&
		(f.From == "" || isEnd(f.From, e.From, e.FromPod) || isEnd(f.From, e.Source, "")) &&
		(f.To == "" || isEnd(f.To, e.To, e.ToPod) || isEnd(f.To, e.Destination, "")) &&
		(f.Protocol == "" || strings.EqualFold(f.Protocol, e.Protocol))
}

// isNamed says whether a namespace/name is meant by that or by the name alone.
func isNamed(full, wanted string) bool {
	_, name, _ := strings.Cut(full, "/")
	return full != "" && (full == wanted || name == wanted)
}

func isEnd(wanted, end, pod string) bool {
	if isNamed(pod, wanted) || end == wanted && end != "" {
		return true
	}
	a, err := netip.ParseAddr(end)
	if both, bothErr := netip.ParseAddrPort(end); bothErr == nil {
		a, err = both.Addr(), nil
	}
	if err != nil {
		return false
	}
	prefix, err := netip.ParsePrefix(wanted)
	return err == nil && prefix.Contains(a) || a.String() == wanted
}

// addrOf reads an address of an event, whose type has no name there.
func addrOf(a abi.Addr) netip.Addr { return a.Netip() }
