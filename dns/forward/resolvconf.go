package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/miekg/dns"
)

// resolvedFile lists the servers behind systemd-resolved, whose own address is of no use to others than the host.
const resolvedFile = "/run/systemd/resolve/resolv.conf"

// FromResolvConf reads the servers of a resolv.conf (resolv.conf(5)), leaving out those that are self; those behind
// systemd-resolved in its stead. Returns an error that names the file if it cannot be read.
func FromResolvConf(file string, self ...netip.Addr) ([]Server, error) {
	servers, err := readResolvConf(file, self)
	if err != nil || len(servers) == 0 {
		return nil, err
	}
	for _, s := range servers {
		if !s.Addr.Addr().IsLoopback() {
			return servers, nil
		}
	}
	behind, err := readResolvConf(resolvedFile, self)
	if err != nil || len(behind) == 0 {
		return servers, nil // a resolver on loopback; if it asks this server again, that is found
	}
	return behind, nil
}

func readResolvConf(file string, self []netip.Addr) ([]Server, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read upstream DNS servers: %w", err)
	}
	defer f.Close()
	cfg, err := dns.ClientConfigFromReader(f)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	var out []Server
next:
	for _, s := range cfg.Servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		for _, own := range self {
			if addr == own {
				continue next
			}
		}
		out = append(out, Server{Addr: netip.AddrPortFrom(addr, 53)})
	}
	return out, nil
}

// ErrServer is returned for text that names no server.
var ErrServer = errors.New("not a server: want ADDRESS, ADDRESS:PORT, or tls://ADDRESS[:PORT][#NAME]")

// ParseServer reads "10.0.0.1", "10.0.0.1:5353", "[fd00::1]:53", or "tls://1.1.1.1#cloudflare-dns.com".
func ParseServer(text string) (Server, error) {
	var s Server
	port := uint16(53)
	rest := text
	if after, ok := strings.CutPrefix(rest, "tls://"); ok {
		s.TLS, port = true, 853
		rest, s.Name, _ = strings.Cut(after, "#")
	}
	if addr, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
		s.Addr = netip.AddrPortFrom(addr, port)
		return s, nil
	}
	addr, err := netip.ParseAddrPort(rest)
	if err != nil || addr.Port() == 0 {
		return Server{}, fmt.Errorf("%q: %w", text, ErrServer)
	}
	s.Addr = addr
	return s, nil
}
