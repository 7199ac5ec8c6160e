package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	// pacedSockets are as many clients, so that a server that spreads load by them does.
	pacedSockets = 16
	// late is when an answer counts as lost: clients have begun to ask again.
	late = time.Second
	// catchUp bounds how many look-ups are sent at once after a pause.
	catchUp = 64
)

// pacedLoad asks at a fixed rate, whether or not answers come: a server that stops for a moment is then seen in all the look-ups that
// would have met it. A look-up's time runs from when it was due, not from when it could be sent.
type pacedLoad struct {
	l    Lookup
	fds  []unix.PollFd
	due  []time.Duration // by number, since began
	done []bool
	// took are those of answered look-ups, in the order of the answers.
	took  []time.Duration
	began time.Time
	buf   [1500]byte
}

// paced returns how long each look-up took, and how many had no answer within a second.
func paced(l Lookup, length time.Duration) (took []time.Duration, lost int, err error) {
	p := &pacedLoad{l: l}
	err = p.run(length)
	return p.took, p.lost(), err
}

// lost counts look-ups that were not answered, or late.
func (p *pacedLoad) lost() int {
	n := len(p.due) - len(p.took)
	for _, d := range p.took {
		if d > late {
			n++
		}
	}
	return n
}

func (p *pacedLoad) run(length time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Timers of this thread may be coarse by 50 us, the time between two look-ups.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }()
	question, err := packQuestion(p.l.Name, dns.TypeA)
	if err != nil {
		return err
	}
	for range pacedSockets {
		fd, err := dialUDP(p.l.Addr)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		p.fds = append(p.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	total, step := int(float64(p.l.Rate)*length.Seconds()), time.Second/time.Duration(p.l.Rate)
	p.began = time.Now()
	for {
		now := time.Since(p.began)
		for n := 0; n < catchUp && len(p.due) < total && time.Duration(len(p.due))*step <= now; n++ {
			p.send(question, time.Duration(len(p.due))*step)
		}
		wait := time.Duration(len(p.due))*step - time.Since(p.began)
		if len(p.due) == total {
			if wait = length + late - time.Since(p.began); len(p.took) == total || wait <= 0 {
				return nil
			}
		}
		if err := p.receive(max(wait, 0)); err != nil {
			return err
		}
	}
}

// send asks once. Numbers of look-ups in flight are told apart by socket and identifier.
func (p *pacedLoad) send(question []byte, due time.Duration) {
	i := len(p.due)
	p.due, p.done = append(p.due, due), append(p.done, false)
	binary.BigEndian.PutUint16(question, uint16(i/pacedSockets))
	_, _ = unix.Write(int(p.fds[i%pacedSockets].Fd), question) // refused where nobody listens just now: it is lost
}

// receive takes all answers that have come, and waits for the first one for at most the given time.
func (p *pacedLoad) receive(wait time.Duration) error {
	timeout := unix.NsecToTimespec(wait.Nanoseconds())
	if _, err := unix.Ppoll(p.fds, &timeout, nil); err != nil {
		if errors.Is(err, unix.EINTR) {
			return nil
		}
		return fmt.Errorf("poll: %w", err)
	}
	for i := range p.fds {
		if p.fds[i].Revents == 0 {
			continue
		}
		for {
			n, _, err := unix.Recvfrom(int(p.fds[i].Fd), p.buf[:], unix.MSG_DONTWAIT)
			if err != nil || n < 12 {
				break // nothing more, or nobody listens
			}
			if err := p.answered(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// answered notes the answer in buf, that came on the socket. The number has wrapped every 65536 look-ups of a socket: it is the last
// one that fits.
func (p *pacedLoad) answered(socket int) error {
	last := (len(p.due) - 1 - socket) / pacedSockets
	id := int(binary.BigEndian.Uint16(p.buf[:]))
	i := (last-(last-id)&0xffff)*pacedSockets + socket
	if i < 0 || i >= len(p.due) || p.done[i] {
		return nil // of another time
	}
	if err := p.l.check(p.buf[:]); err != nil {
		return err
	}
	p.done[i] = true
	p.took = append(p.took, time.Since(p.began)-p.due[i])
	return nil
}
