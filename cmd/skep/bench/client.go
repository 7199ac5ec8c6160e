package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"
)

// Target is one way to reach the peer.
type Target struct {
	// Path names it: direct, clusterip or nodeport.
	Path string
	// Echo and Sink are the addresses of the peer's two ports on this path.
	Echo, Sink netip.AddrPort
}

// ParseTarget reads "path=echo-address,sink-address", the form that String writes.
func ParseTarget(s string) (Target, error) {
	path, addrs, ok := strings.Cut(s, "=")
	echo, sink, both := strings.Cut(addrs, ",")
	t := Target{Path: path}
	var err, err2 error
	t.Echo, err = netip.ParseAddrPort(echo)
	t.Sink, err2 = netip.ParseAddrPort(sink)
	if !ok || !both || err != nil || err2 != nil {
		return t, fmt.Errorf("target %q is not path=address:port,address:port", s)
	}
	return t, nil
}

func (t Target) String() string { return fmt.Sprintf("%s=%s,%s", t.Path, t.Echo, t.Sink) }

// sample is what the load side prints for one path in one round, a line of JSON.
type sample struct {
	Path        string  `json:"path"`
	Round       int     `json:"round"`
	Connections float64 `json:"connectionsPerSecond"`
	ConnectP50  float64 `json:"connectP50Us"`
	ConnectP99  float64 `json:"connectP99Us"`
	// CPU is the time of the whole machine for each connection.
	CPU          float64 `json:"cpuUsPerConnection"`
	RoundTripP50 float64 `json:"roundTripP50Us"`
	RoundTripP99 float64 `json:"roundTripP99Us"`
	Throughput   float64 `json:"throughputMbps"`
}

// Load says how much to send.
type Load struct {
	// Workers is how many connections are open at once when connections are counted.
	Workers int
	// Rounds is how often each path is measured; paths alternate within a round, so that drift hits all alike.
	Rounds int
	// Length is the time of one measurement of one kind on one path.
	Length time.Duration
}

// RunClient is the load side of the Service benchmark. It runs inside a pod and writes one line of JSON to out for each path
// of each round. A first, unmeasured round waits until each path answers.
func RunClient(load Load, targets []Target, out io.Writer) error {
	for _, t := range targets {
		if err := awaitPath(t); err != nil {
			return err
		}
	}
	enc := json.NewEncoder(out)
	for round := range load.Rounds {
		// In another order each time: what was measured just before has an influence.
		for _, i := range rand.Perm(len(targets)) {
			t := targets[i]
			s, err := measure(load, t)
			if err != nil {
				return fmt.Errorf("%s: %w", t.Path, err)
			}
			s.Round = round
			if err := enc.Encode(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitPath connects until the path answers, for at most ten seconds.
func awaitPath(t Target) error {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, _, err = connections(t.Echo, 1, time.Millisecond); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer: %w", t.Path, err)
}

func measure(load Load, t Target) (s sample, err error) {
	s.Path = t.Path
	before, err := busyTime()
	if err != nil {
		return s, err
	}
	rate, connect, err := connections(t.Echo, load.Workers, load.Length)
	if err != nil {
		return s, err
	}
	after, err := busyTime()
	if err != nil {
		return s, err
	}
	s.CPU = roundTenth(float64((after - before).Microseconds()) / float64(max(len(connect), 1)))
	s.Connections, s.ConnectP50, s.ConnectP99 = roundTenth(rate), percentile(connect, 50), percentile(connect, 99)
	trips, err := roundTrips(t.Echo, load.Length)
	if err != nil {
		return s, err
	}
	s.RoundTripP50, s.RoundTripP99 = percentile(trips, 50), percentile(trips, 99)
	mbps, err := throughput(t.Sink, load.Length)
	s.Throughput = roundTenth(mbps)
	return s, err
}

// eachLine decodes the load side's lines of JSON until they end.
func eachLine[T any](lines io.Reader, see func(T)) error {
	for dec := json.NewDecoder(lines); ; {
		var v T
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the load side's samples: %w", err)
		}
		see(v)
	}
}
