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
	// ServerCPUUs is the part of the server's own process, where it is known.
	ServerCPUUs float64 `json:"serverCpuUsPerQuery,omitempty"`
}

// Lookup is one kind of question to one server.
type Lookup struct {
	// Server and Case name the row: "skep", "existing" or "nxdomain".
	Server, Case string
	Addr         netip.AddrPort
	// Name is the fully qualified name to ask for, type A; Rcode is the answer that counts.
	Name  string
	Rcode int
	// PID is the server's process where it runs on this machine, 0 where that is not known.
	PID int
}

// ParseLookup reads "server/case=address/name", the form that String writes, with "#pid" behind it where the server's process is known.
func ParseLookup(s string) (Lookup, error) {
	s, process, _ := strings.Cut(s, "#")
	row, question, ok := strings.Cut(s, "=")
	server, kind, ok2 := strings.Cut(row, "/")
	addr, name, ok3 := strings.Cut(question, "/")
	l := Lookup{Server: server, Case: kind, Name: dns.Fqdn(name)}
	var err error
	if l.Addr, err = netip.ParseAddrPort(addr); err != nil || !ok || !ok2 || !ok3 {
		return l, fmt.Errorf("look-up %q is not server/case=address:port/name", s)
	}
	if process != "" {
		if l.PID, err = strconv.Atoi(process); err != nil {
			return l, fmt.Errorf("look-up %q: process %q is no number", s, process)
		}
	}
	if kind == caseMissing {
		l.Rcode = dns.RcodeNameError
	}
	return l, nil
}

func (l Lookup) String() string {
	s := fmt.Sprintf("%s/%s=%s/%s", l.Server, l.Case, l.Addr, l.Name)
	if l.PID != 0 {
		s += "#" + strconv.Itoa(l.PID)
	}
	return s
}

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
			before := processTime(l.PID)
			if s.Queries, s.CPUUsPerQuery, _, err = queries(l, load.Workers, load.Length); err != nil {
				return err
			}
			s.ServerCPUUs = roundTenth(float64((processTime(l.PID) - before).Microseconds()) / max(s.Queries*load.Length.Seconds(), 1))
			s.Queries, s.CPUUsPerQuery = roundTenth(s.Queries), roundTenth(s.CPUUsPerQuery)
			if err := enc.Encode(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// queries keeps outstanding look-ups in flight for the given time, spread over sockets as over the pods of a node, and sends and
// receives them in batches, so that the client takes as little of the machine as can be. It returns look-ups a second, CPU
// microseconds of the whole machine for each, and, for one outstanding, how long each took. An answer with another code than
// expected is an error; so is
// a second without any.
func queries(l Lookup, outstanding int, length time.Duration) (rate, cpu float64, took []time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	question, err := new(dns.Msg).SetQuestion(l.Name, dns.TypeA).Pack()
	if err != nil {
		return 0, 0, nil, fmt.Errorf("question for %s: %w", l.Name, err)
	}
	if outstanding == 1 {
		return oneByOne(l, question, length)
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return 0, 0, nil, err
	}
	defer unix.Close(ep)
	var socks []*batchSocket
	for left := outstanding; left > 0; left -= sendBatch {
		s, err := newBatchSocket(l, question, min(left, sendBatch))
		if err != nil {
			return 0, 0, nil, err
		}
		defer unix.Close(s.fd)
		if err := errors.Join(addReadable(ep, s.fd), s.send(min(left, sendBatch))); err != nil {
			return 0, 0, nil, fmt.Errorf("ask %s: %w", l.Addr, err)
		}
		socks = append(socks, s)
	}
	busy, err := busyTime()
	if err != nil {
		return 0, 0, nil, err
	}
	began, total := time.Now(), 0
	for time.Since(began) < length {
		got, err := turn(ep, socks, l)
		if err != nil {
			return 0, 0, nil, err
		}
		total += got
	}
	passed := time.Since(began)
	after, err := busyTime()
	return float64(total) / passed.Seconds(), float64((after - busy).Microseconds()) / float64(max(total, 1)), nil, err
}

// turn takes what has come on all sockets and asks as often again; it waits where nothing has.
func turn(ep int, socks []*batchSocket, l Lookup) (total int, err error) {
	for _, s := range socks {
		n, err := s.receive(l)
		if err == nil && n > 0 {
			err = s.send(n)
		}
		if err != nil {
			return total, err
		}
		total += n
	}
	if total > 0 {
		return total, nil
	}
	n, err := unix.EpollWait(ep, make([]unix.EpollEvent, len(socks)), 1000)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return 0, fmt.Errorf("epoll: %w", err)
	}
	if n == 0 {
		return 0, fmt.Errorf("%s did not answer for %s within a second", l.Addr, l.Name)
	}
	return 0, nil
}

// oneByOne asks and waits, again and again, without a poll between.
func oneByOne(l Lookup, question []byte, length time.Duration) (rate, cpu float64, took []time.Duration, err error) {
	fd, err := dialUDP(l.Addr)
	if err != nil {
		return 0, 0, nil, err
	}
	defer unix.Close(fd)
	second := unix.Timeval{Sec: 1}
	busy, err := busyTime()
	if err := errors.Join(err, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second)); err != nil {
		return 0, 0, nil, err
	}
	answer := make([]byte, 4096)
	began := time.Now()
	for asked := began; asked.Sub(began) < length; {
		binary.BigEndian.PutUint16(question, uint16(len(took)))
		if _, err := unix.Write(fd, question); err != nil {
			return 0, 0, nil, fmt.Errorf("ask %s: %w", l.Addr, err)
		}
		if err := checkAnswer(fd, answer, l); err != nil {
			return 0, 0, nil, err
		}
		now := time.Now()
		took = append(took, now.Sub(asked))
		asked = now
	}
	passed := time.Since(began)
	after, err := busyTime()
	return float64(len(took)) / passed.Seconds(), float64((after - busy).Microseconds()) / float64(len(took)), took, err
}

// checkAnswer reads one answer and compares its code.
func checkAnswer(fd int, buf []byte, l Lookup) error {
	n, err := unix.Read(fd, buf)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, buf)
	}
	if err != nil || n < 12 {
		return fmt.Errorf("answer of %s for %s: %d bytes, %w", l.Addr, l.Name, n, err)
	}
	return l.check(buf)
}

func (l Lookup) check(answer []byte) error {
	if code := int(answer[3] & 0xf); code != l.Rcode {
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

// processTime is the CPU time that a process has used (proc(5)), 0 for one that is not known.
func processTime(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if err != nil || !ok || len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
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
