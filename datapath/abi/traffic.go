package abi

// The ways of [Traffic].
const (
	TrafficThere = netdevTrafficWayTRAFFIC_THERE
	TrafficBack  = netdevTrafficWayTRAFFIC_BACK
)

// TrafficCollected is in the keys of what the collector has summed up; see bpf/lib/traffic.h.
const TrafficCollected uint32 = 1 << 31

// Add returns the sums of both.
func (t netdevTraffic) Add(o netdevTraffic) netdevTraffic {
	t.Sockets += o.Sockets
	t.Flows += o.Flows
	t.Refused += o.Refused
	for way := range t.Bytes {
		t.Payload[way] += o.Payload[way]
		t.Bytes[way] += o.Bytes[way]
	}
	return t
}

// Max returns the larger ones of both.
func (t netdevTraffic) Max(o netdevTraffic) netdevTraffic {
	t.Sockets, t.Flows, t.Refused = max(t.Sockets, o.Sockets), max(t.Flows, o.Flows), max(t.Refused, o.Refused)
	for way := range t.Bytes {
		t.Payload[way] = max(t.Payload[way], o.Payload[way])
		t.Bytes[way] = max(t.Bytes[way], o.Bytes[way])
	}
	return t
}
