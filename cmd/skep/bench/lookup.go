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
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// lookupSample is what the load side prints for one look-up in one round, a line of JSON.
type lookupSample struct {
	Server string `json:"server"`
	Case   string `json:"case"`
	Round  int    `json:"round"`
	// Rate is the look-up's: P50 and P99 are then taken at that many a second, else with one outstanding.
	Rate int     `json:"rate,omitempty"`
	P50  float64 `json:"p50Us"`
	P99  float64 `json:"p99Us"`
	// Queries is the most a second, with the CPU time of the whole machine for each and, where it is known, of the server's process.
	Queries       float64 `json:"queriesPerSecond,omitempty"`
	CPUUsPerQuery float64 `json:"cpuUsPerQuery,omitempty"`
	ServerCPUUs   float64 `json:"serverCpuUsPerQuery,omitempty"`
	// Lost counts the look-ups of a paced load without an answer within a second.
	Lost int `json:"lost,omitempty"`
}

// Lookup is one kind of question to one server.
type Lookup struct {
	// Server and Case name the row: "skep", "existing", "nxdomain" or "walk".
	Server, Case string
	Addr         netip.AddrPort
	// Name is the fully qualified name to ask for, type A; Rcode is the answer that counts. A walk's is a list with commas, and
	// each is asked for with A and AAAA, one name after the other.
	Name  string
	Rcode int
	// PID is the server's process where it runs on this machine, 0 where that is not known.
	PID int
	// Rate paces the load to that many look-ups a second; 0 measures the most.
	Rate int
}

// ParseLookup reads "server/case=address/name", the form that String writes, with "@rate" behind it for a paced load, and "#pid" where the
// server's process is known.
func ParseLookup(s string) (Lookup, error) {
	rest, process, _ := strings.Cut(s, "#")
	rest, rate, _ := strings.Cut(rest, "@")
	row, question, ok := strings.Cut(rest, "=")
	server, kind, ok2 := strings.Cut(row, "/")
	addr, name, ok3 := strings.Cut(question, "/")
	l := Lookup{Server: server, Case: kind, Name: dns.Fqdn(name)}
	var err error
	if l.Addr, err = netip.ParseAddrPort(addr); err != nil || !ok || !ok2 || !ok3 {
		return l, fmt.Errorf("look-up %q is not server/case=address:port/name", s)
	}
	for text, into := range map[string]*int{process: &l.PID, rate: &l.Rate} {
		if text == "" {
			continue
		}
		if *into, err = strconv.Atoi(text); err != nil {
			return l, fmt.Errorf("look-up %q: %q is no number", s, text)
		}
	}
	if kind == caseMissing {
		l.Rcode = dns.RcodeNameError
	}
	return l, nil
}

func (l Lookup) String() string {
	s := fmt.Sprintf("%s/%s=%s/%s", l.Server, l.Case, l.Addr, l.Name)
	if l.Rate != 0 {
		s += "@" + strconv.Itoa(l.Rate)
	}
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
			s, err := l.measure(load)
			if err != nil {
				return err
			}
			s.Round = round
			if err := enc.Encode(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l Lookup) measure(load Load) (s lookupSample, err error) {
	s = lookupSample{Server: l.Server, Case: l.Case, Rate: l.Rate}
	var took []time.Duration
	switch {
	case l.Case == caseWalk:
		took, err = walks(l, load.Length)
	case l.Rate > 0:
		took, s.Lost, err = paced(l, load.Length)
	default:
		if took, err = oneByOne(l, load.Length); err != nil {
			return s, err
		}
		// Where the kernel answers, each thread of the client is all that works: one would leave processors idle. Where a server
		// answers, more than one may only be in its way. Each server is given what suits it.
		for _, threads := range []int{1, runtime.NumCPU()} {
			m, err := mostOf(l, load.Workers, threads, load.Length)
			if err != nil {
				return s, err
			}
			if m.rate > s.Queries {
				s.Queries, s.CPUUsPerQuery, s.ServerCPUUs = roundTenth(m.rate), roundTenth(m.cpu), roundTenth(m.server)
			}
		}
	}
	s.P50, s.P99 = percentile(took, 50), percentile(took, 99)
	return s, err
}

// most is what a server was found to do: look-ups a second, and CPU microseconds for each of the whole machine and of the server.
type most struct{ rate, cpu, server float64 }

// mostOf keeps outstanding look-ups in flight for the given time, spread over threads, and over sockets as over the pods of a node,
// and sends and receives them in batches, so that the client takes as little of the machine as can be. An answer with another code
// than expected is an error; so is a second without any.
func mostOf(l Lookup, outstanding, threads int, length time.Duration) (most, error) {
	busy, err := busyTime()
	if err != nil {
		return most{}, err
	}
	server, began := processTime(l.PID), time.Now()
	totals, group := make([]int, threads), errgroup.Group{}
	for i := range threads {
		group.Go(func() (err error) {
			totals[i], err = flood(l, max(outstanding/threads, 1), length)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return most{}, err
	}
	passed, total := time.Since(began), 0
	for _, n := range totals {
		total += n
	}
	after, err := busyTime()
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(max(total, 1)) }
	return most{rate: float64(total) / passed.Seconds(), cpu: each(after - busy), server: each(processTime(l.PID) - server)}, err
}

// flood is the load of one thread; it returns how many answers came.
func flood(l Lookup, outstanding int, length time.Duration) (total int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	question, err := packQuestion(l.Name, dns.TypeA)
	if err != nil {
		return 0, err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(ep)
	var socks []*batchSocket
	for left := outstanding; left > 0; left -= sendBatch {
		s, err := newBatchSocket(l, question, min(left, sendBatch))
		if err != nil {
			return 0, err
		}
		defer unix.Close(s.fd)
		if err := errors.Join(addReadable(ep, s.fd), s.send(min(left, sendBatch))); err != nil {
			return 0, fmt.Errorf("ask %s: %w", l.Addr, err)
		}
		socks = append(socks, s)
	}
	for began := time.Now(); time.Since(began) < length; {
		got, err := turn(ep, socks, l)
		if err != nil {
			return 0, err
		}
		total += got
	}
	return total, nil
}

func packQuestion(name string, qtype uint16) ([]byte, error) {
	question, err := new(dns.Msg).SetQuestion(name, qtype).Pack()
	if err != nil {
		return nil, fmt.Errorf("question for %s: %w", name, err)
	}
	return question, nil
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

// oneByOne asks and waits, again and again, without a poll between. It returns how long each took.
func oneByOne(l Lookup, length time.Duration) (took []time.Duration, err error) {
	question, err := packQuestion(l.Name, dns.TypeA)
	if err != nil {
		return nil, err
	}
	fd, err := dialPatient(l.Addr)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	answer := make([]byte, 4096)
	began := time.Now()
	for asked := began; asked.Sub(began) < length; {
		binary.BigEndian.PutUint16(question, uint16(len(took)))
		if _, err := unix.Write(fd, question); err != nil {
			return nil, fmt.Errorf("ask %s: %w", l.Addr, err)
		}
		if err := checkAnswer(fd, answer, l); err != nil {
			return nil, err
		}
		now := time.Now()
		took = append(took, now.Sub(asked))
		asked = now
	}
	return took, nil
}

// walks asks for the names of the list as a resolver walks its search list: A and AAAA together for each, then the next. It returns how
// long each walk took. The last name must exist, the others must not.
func walks(l Lookup, length time.Duration) (took []time.Duration, err error) {
	fd, err := dialPatient(l.Addr)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var questions [][]byte
	names := strings.Split(l.Name, ",")
	for _, name := range names {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			q, err := packQuestion(dns.Fqdn(name), qtype)
			if err != nil {
				return nil, err
			}
			questions = append(questions, q)
		}
	}
	answer := make([]byte, 4096)
	for began := time.Now(); time.Since(began) < length; {
		start := time.Now()
		for i := 0; i < len(questions); i += 2 {
			each := l
			if each.Name = names[i/2]; i < len(questions)-2 {
				each.Rcode = dns.RcodeNameError
			}
			for _, q := range questions[i : i+2] {
				if _, err := unix.Write(fd, q); err != nil {
					return nil, fmt.Errorf("ask %s: %w", l.Addr, err)
				}
			}
			if err := errors.Join(checkAnswer(fd, answer, each), checkAnswer(fd, answer, each)); err != nil {
				return nil, err
			}
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

// dialPatient connects a socket on which a read waits for a second.
func dialPatient(addr netip.AddrPort) (int, error) {
	fd, err := dialUDP(addr)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
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
