package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// The numbers of the fixed cluster IPs in each service range: those of default/kubernetes and kube-system/kube-dns.
const (
	apiServiceIP = 1
	dnsServiceIP = 10
)

// The sizes that a range may have: of a service range of IPv6 at most a million addresses can be given out, and of a pod range
// every node gets a /24 or a /64.
const (
	maxBits4        = 24
	minServiceBits6 = 108
	maxServiceBits6 = 120
	maxPodBits6     = 64
)

// parseFamilies reads the addresses as given and completes the configuration.
func (c *nodeConfig) parseFamilies(nodeIPs, serviceCIDRs, podCIDRs []string) (err error) {
	if c.serviceCIDRs, err = parseRanges("--service-cidr", serviceCIDRs, minServiceBits6, maxServiceBits6); err != nil {
		return err
	}
	if c.podCIDRs, err = parseRanges("--pod-cidr", podCIDRs, 0, maxPodBits6); err != nil {
		return err
	}
	for i := range max(len(c.serviceCIDRs), len(c.podCIDRs)) {
		if len(c.serviceCIDRs) != len(c.podCIDRs) || c.serviceCIDRs[i].Addr().Is4() != c.podCIDRs[i].Addr().Is4() {
			return fmt.Errorf("--service-cidr %s and --pod-cidr %s are not of the same families in the same order", commas(c.serviceCIDRs), commas(c.podCIDRs))
		}
		if c.serviceCIDRs[i].Overlaps(c.podCIDRs[i]) {
			return fmt.Errorf("--service-cidr %s and --pod-cidr %s overlap", c.serviceCIDRs[i], c.podCIDRs[i])
		}
	}
	if err := c.parseIPs(nodeIPs); err != nil {
		return err
	}
	return c.complete()
}

// parseRanges reads one range, or one of each family.
func parseRanges(flag string, values []string, minBits6, maxBits6 int) ([]netip.Prefix, error) {
	prefixes, err := parsePrefixes(values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	for _, p := range prefixes {
		switch {
		case p.Addr().Is4() && p.Bits() > maxBits4:
			return nil, fmt.Errorf("%s %s is smaller than a /%d", flag, p, maxBits4)
		case p.Addr().Is6() && p.Bits() < minBits6:
			return nil, fmt.Errorf("%s %s is larger than a /%d", flag, p, minBits6)
		case p.Addr().Is6() && p.Bits() > maxBits6:
			return nil, fmt.Errorf("%s %s is smaller than a /%d", flag, p, maxBits6)
		}
	}
	if len(prefixes) == 0 || len(prefixes) > 2 || len(prefixes) == 2 && prefixes[0].Addr().Is4() == prefixes[1].Addr().Is4() {
		return nil, fmt.Errorf("%s %s: want one range, or one of IPv4 and one of IPv6", flag, strings.Join(values, ","))
	}
	return prefixes, nil
}

// parseIPs reads the node's addresses and puts that of the primary family first.
func (c *nodeConfig) parseIPs(values []string) error {
	byFamily := map[bool]netip.Addr{}
	for _, v := range values {
		ip, err := netip.ParseAddr(v)
		if err != nil || ip.Is4In6() || ip.Zone() != "" || ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
			return fmt.Errorf("--node-ip %q is not an address that other machines reach", v)
		}
		if byFamily[ip.Is4()].IsValid() {
			return fmt.Errorf("--node-ip %s: want at most one address of each family", strings.Join(values, ","))
		}
		byFamily[ip.Is4()] = ip
	}
	if len(values) == 0 {
		return nil
	}
	c.ips = nil
	for i, p := range c.podCIDRs {
		ip, ok := byFamily[p.Addr().Is4()]
		if !ok && i == 0 {
			return fmt.Errorf("--node-ip %s has none of the family of --pod-cidr %s, which is the primary one", strings.Join(values, ","), p)
		}
		if ok {
			c.ips = append(c.ips, ip)
		}
		delete(byFamily, p.Addr().Is4())
	}
	for _, ip := range byFamily {
		return fmt.Errorf("--node-ip %s: the cluster has no range of that family", ip)
	}
	return nil
}

// parseAgentIPs reads the addresses of a node whose cluster is yet to say which families it has.
func (c *nodeConfig) parseAgentIPs(values []string) error {
	if err := c.parseAnyIPs(values); err != nil {
		return err
	}
	families := c.podCIDRs
	c.podCIDRs = anyFamilies(values)
	err := c.complete()
	c.podCIDRs = families
	return err
}

// parseAnyIPs reads at most one address of each family.
func (c *nodeConfig) parseAnyIPs(values []string) error {
	families := c.podCIDRs
	c.podCIDRs = anyFamilies(values)
	err := c.parseIPs(values)
	c.podCIDRs = families
	return err
}

// anyFamilies are both families, that of the first address first.
func anyFamilies(values []string) []netip.Prefix {
	all := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	if len(values) > 0 && !strings.Contains(values[0], ".") {
		slices.Reverse(all)
	}
	return all
}

// keepFamilies leaves the addresses of the cluster's families, in the cluster's order.
func (c *nodeConfig) keepFamilies() error {
	var ips []netip.Addr
	for _, p := range c.podCIDRs {
		for _, ip := range c.ips {
			if ip.Is4() == p.Addr().Is4() {
				ips = append(ips, ip)
			}
		}
	}
	if len(ips) == 0 || ips[0].Is4() != c.podCIDRs[0].Addr().Is4() {
		return fmt.Errorf("the node's addresses %s are not of the cluster's primary family, as %s", commas(c.ips), c.podCIDRs[0])
	}
	c.ips = ips
	return nil
}

// findIPs looks for the node's addresses. It must have one of the primary family.
func (c *nodeConfig) findIPs() error {
	for i, p := range c.podCIDRs {
		ip, err := machineIP(p.Addr().Is4())
		switch {
		case err == nil:
			c.ips = append(c.ips, ip)
		case i == 0:
			return err
		}
	}
	return nil
}

// serviceIPs are the n-th addresses of the service ranges.
func (c *nodeConfig) serviceIPs(n int) []netip.Addr {
	var list []netip.Addr
	for _, p := range c.serviceCIDRs {
		ip := p.Masked().Addr()
		for range n {
			ip = ip.Next()
		}
		list = append(list, ip)
	}
	return list
}

// dnsServers leads the cluster's DNS addresses to the node's own servers, each to that of its family.
func (c *nodeConfig) dnsServers(listen []netip.AddrPort) map[netip.Addr]netip.AddrPort {
	servers := map[netip.Addr]netip.AddrPort{}
	addresses := c.serviceIPs(dnsServiceIP)
	if c.foreign != nil {
		addresses = c.foreign.dns
	}
	for _, ip := range addresses {
		for _, l := range listen {
			if l.Addr().Is4() == ip.Is4() {
				servers[ip] = l
			}
		}
	}
	return servers
}

// machineIP is the address of a family from which this machine would talk to the world, else its first one that is neither
// loopback nor of the link alone.
func machineIP(four bool) (netip.Addr, error) {
	network, world, name := "udp6", "[2001:db8::1]:9", "IPv6"
	if four {
		network, world, name = "udp4", "192.0.2.1:9", "IPv4"
	}
	// Connecting a datagram socket sends nothing: it only asks for a route.
	if conn, err := net.Dial(network, world); err == nil {
		defer conn.Close()
		if ip := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr(); ip.IsGlobalUnicast() {
			return ip, nil
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() == four && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no " + name + " address besides loopback; name one with --node-ip")
}

func parsePrefixes(values []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, v := range values {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return nil, fmt.Errorf("%q is no range such as 10.96.0.0/16 or fd00:10:96::/112", v)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// commas is the list as a flag takes it.
func commas[T fmt.Stringer](list []T) string {
	var b strings.Builder
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(v.String())
	}
	return b.String()
}
