package bench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// lookupSample is what the load side prints for one name in one round, a line of JSON.
type lookupSample struct {
	Server        string  `json:"server"`
	Case          string  `json:"case"`
	Round         int     `json:"round"`
	Queries       float64 `json:"queriesPerSecond"`
	P50           float64 `json:"p50Us"`
	P99           float64 `json:"p99Us"`
	CPUUsPerQuery float64 `json:"cpuUsPerQuery"`
}

// Lookup is one kind of question to one server.
type Lookup struct {
	// Server and Case name the row: "skep", "existing" or "nxdomain".
	Server, Case string
	Addr         netip.AddrPort
	// Name is the fully qualified name to ask for, type A; Rcode is the answer that counts.
	Name  string
	Rcode int
}

// ParseLookup reads "server/case=address/name", the form that String writes.
func ParseLookup(s string) (Lookup, error) {
	row, question, ok := strings.Cut(s, "=")
	server, kind, ok2 := strings.Cut(row, "/")
	addr, name, ok3 := strings.Cut(question, "/")
	l := Lookup{Server: server, Case: kind, Name: dns.Fqdn(name)}
	var err error
	if l.Addr, err = netip.ParseAddrPort(addr); err != nil || !ok || !ok2 || !ok3 {
		return l, fmt.Errorf("look-up %q is not server/case=address:port/name", s)
	}
	if kind == caseMissing {
		l.Rcode = dns.RcodeNameError
	}
	return l, nil
}

func (l Lookup) String() string { return fmt.Sprintf("%s/%s=%s/%s", l.Server, l.Case, l.Addr, l.Name) }

// RunLookups is the load side of the DNS benchmark; like RunClient it alternates and prints a line of JSON each.
func RunLookups(load Load, lookups []Lookup, out io.Writer) error {
	enc := json.NewEncoder(out)
	for round := range load.Rounds {
		for i := range lookups {
			l := lookups[(i+round)%len(lookups)]
			s := lookupSample{Server: l.Server, Case: l.Case, Round: round}
			_, _, alone, err := queries(l, 1, load.Length)
			if err != nil {
				return err
			}
			s.P50, s.P99 = percentile(alone, 50), percentile(alone, 99)
			if s.Queries, s.CPUUsPerQuery, _, err = queries(l, load.Workers, load.Length); err != nil {
				return err
			}
			s.Queries, s.CPUUsPerQuery = roundTenth(s.Queries), roundTenth(s.CPUUsPerQuery)
			if err := enc.Encode(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// queries keeps outstanding look-ups in flight for the given time, each on a connected socket of its own, as resolvers do.
// It returns look-ups a second, CPU microseconds of the whole machine for each, and how long each took. An answer with
// another code than expected, or none for a second, is an error.
func queries(l Lookup, outstanding int, length time.Duration) (rate, cpu float64, took []time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	question, err := new(dns.Msg).SetQuestion(l.Name, dns.TypeA).Pack()
	if err != nil {
		return 0, 0, nil, fmt.Errorf("question for %s: %w", l.Name, err)
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return 0, 0, nil, err
	}
	defer unix.Close(ep)
	asked := map[int32]time.Time{}
	for range outstanding {
		fd, err := dialUDP(l.Addr)
		if err != nil {
			return 0, 0, nil, err
		}
		defer unix.Close(fd)
		if err := addReadable(ep, fd); err != nil {
			return 0, 0, nil, err
		}
		asked[int32(fd)] = time.Now()
		if _, err := unix.Write(fd, question); err != nil {
			return 0, 0, nil, fmt.Errorf("ask %s: %w", l.Addr, err)
		}
	}
	busy, err := busyTime()
	if err != nil {
		return 0, 0, nil, err
	}
	events, answer := make([]unix.EpollEvent, outstanding), make([]byte, 4096)
	began := time.Now()
	for time.Since(began) < length {
		n, err := unix.EpollWait(ep, events, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, 0, nil, fmt.Errorf("epoll: %w", err)
		}
		if n == 0 {
			return 0, 0, nil, fmt.Errorf("%s did not answer for %s within a second", l.Addr, l.Name)
		}
		for _, e := range events[:max(n, 0)] {
			if err := checkAnswer(int(e.Fd), answer, l); err != nil {
				return 0, 0, nil, err
			}
			now := time.Now()
			took = append(took, now.Sub(asked[e.Fd]))
			asked[e.Fd] = now
			binary.BigEndian.PutUint16(question, uint16(len(took)))
			if _, err := unix.Write(int(e.Fd), question); err != nil {
				return 0, 0, nil, fmt.Errorf("ask %s: %w", l.Addr, err)
			}
		}
	}
	passed := time.Since(began)
	after, err := busyTime()
	return float64(len(took)) / passed.Seconds(), float64((after - busy).Microseconds()) / float64(max(len(took), 1)), took, err
}

// checkAnswer reads one answer and compares its code.
func checkAnswer(fd int, buf []byte, l Lookup) error {
	n, err := unix.Read(fd, buf)
	if err != nil || n < 12 {
		return fmt.Errorf("answer of %s for %s: %d bytes, %w", l.Addr, l.Name, n, err)
	}
	if code := int(buf[3] & 0xf); code != l.Rcode {
		return fmt.Errorf("answer of %s for %s: %s, expected %s", l.Addr, l.Name, dns.RcodeToString[code], dns.RcodeToString[l.Rcode])
	}
	return nil
}

func dialUDP(addr netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(addr)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return fd, nil
}

// busyTime is the CPU time of the whole machine that was not idle, from the first line of /proc/stat (proc(5)), whose unit
// is 1/100 s.
func busyTime() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var busy time.Duration
	for i, f := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue // name, idle, iowait, guest times (which user time includes)
		}
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		busy += time.Duration(ticks) * 10 * time.Millisecond
	}
	return busy, nil
}
