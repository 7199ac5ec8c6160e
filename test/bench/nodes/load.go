package main

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
)

// within runs fn in the network namespace pinned at path. Sockets that fn makes stay there.
func within(path string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

// addressIn is the first IPv4 address of eth0 of a namespace.
func addressIn(path string) (address netip.Addr, err error) {
	err = within(path, func() error {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := eth.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				address = p.Addr()
				return nil
			}
		}
		return errors.New("eth0 has no address")
	})
	return address, err
}

// chunk is how much is written at once.
const chunk = 256 << 10

// measure returns the stream's rate in Gbit/s and the round trips of one byte per second.
func measure(p *pair, each time.Duration) (rate, questions float64, err error) {
	var l net.Listener
	err = within(p.to, func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(p.address, 0).String())
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	if rate, err = stream(p, l, each); err != nil {
		return 0, 0, err
	}
	questions, err = ask(p, l, each)
	return rate, questions, err
}

// connect makes a connection and returns both ends.
func connect(p *pair, l net.Listener) (here, there net.Conn, err error) {
	err = within(p.from, func() (err error) {
		here, err = net.DialTimeout("tcp4", l.Addr().String(), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	there, err = l.Accept()
	return here, there, err
}

func stream(p *pair, l net.Listener, each time.Duration) (float64, error) {
	here, there, err := connect(p, l)
	if err != nil {
		return 0, err
	}
	defer there.Close()
	go func() {
		defer here.Close()
		data := make([]byte, chunk)
		for {
			if _, err := here.Write(data); err != nil {
				return
			}
		}
	}()
	buffer, total := make([]byte, chunk), 0
	warm := time.Now().Add(each / 10)
	var begun time.Time
	for {
		n, err := there.Read(buffer)
		if err != nil {
			return 0, err
		}
		now := time.Now()
		switch {
		case now.Before(warm):
		case begun.IsZero():
			begun = now
		default:
			total += n
			if took := now.Sub(begun); took > each {
				return float64(total) * 8 / took.Seconds() / 1e9, nil
			}
		}
	}
}

func ask(p *pair, l net.Listener, each time.Duration) (float64, error) {
	here, there, err := connect(p, l)
	if err != nil {
		return 0, err
	}
	defer here.Close()
	go func() {
		defer there.Close()
		_, _ = io.CopyBuffer(struct{ io.Writer }{there}, struct{ io.Reader }{there}, make([]byte, 1)) // it ends with the other end
	}()
	b, count := []byte{1}, 0
	for begun := time.Now(); ; {
		if _, err := here.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(here, b); err != nil {
			return 0, err
		}
		count++
		if took := time.Since(begun); took > each {
			return float64(count) / took.Seconds(), nil
		}
	}
}
