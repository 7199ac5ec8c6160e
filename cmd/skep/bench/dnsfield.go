package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// outsideZone is a domain that only the benchmark's own upstream server knows.
const outsideZone = "bench.test"

// field is where servers are measured beside each other: one cluster's objects, one pod that asks, one upstream server.
type field struct {
	*dnsRun
	// nodeIP is where peers listen, netns the network namespace of the pod that asks.
	nodeIP netip.Addr
	netns  string
	dir    string
	made   int
	// upstream knows outsideZone; configured tells that the cluster's own server asks it too.
	upstream   *dns.Server
	upstreamAt netip.AddrPort
	configured bool
}

func newField(ctx context.Context, r *dnsRun, load *corev1.Pod) (f *field, err error) {
	f = &field{dnsRun: r}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.nodeIP, err = netip.ParseAddr(load.Status.HostIP); err != nil {
		return f, fmt.Errorf("address of the load's node: %w", err)
	}
	if f.netns, err = r.b.netns(ctx, load); err != nil {
		return f, err
	}
	if f.dir, err = os.MkdirTemp("", "skep-bench-"); err != nil {
		return f, err
	}
	if err := writeKubeconfig(f.kubeconfig(), r.b.Config); err != nil {
		return f, err
	}
	return f, f.serveOutside(ctx)
}

func (f *field) kubeconfig() string { return filepath.Join(f.dir, "kubeconfig") }

func (f *field) close() error {
	var errs []error
	if f.configured {
		errs = append(errs, f.b.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Delete(context.Background(), "skep-dns", metav1.DeleteOptions{}))
	}
	if f.upstream != nil {
		errs = append(errs, f.upstream.Shutdown())
	}
	return errors.Join(append(errs, os.RemoveAll(f.dir))...)
}

// netns is the network namespace of the load pod, whose process has told its number.
func (b *Bench) netns(ctx context.Context, load *corev1.Pod) (string, error) {
	log, err := b.Client.CoreV1().Pods(load.Namespace).GetLogs(load.Name, &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		return "", fmt.Errorf("find the load's process: %w", err)
	}
	defer log.Close()
	var pid int
	if _, err := fmt.Fscanln(log, &pid); err != nil {
		return "", fmt.Errorf("find the load's process: %w", err)
	}
	file := fmt.Sprintf("/proc/%d/ns/net", pid)
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("peers are measured on the load's node: %w", err)
	}
	return file, nil
}

// serveOutside runs the upstream server, and has the cluster's own server ask it unless that has a configuration of its user's.
func (f *field) serveOutside(ctx context.Context) error {
	conn, err := net.ListenPacket("udp", netip.AddrPortFrom(f.nodeIP, 0).String())
	if err != nil {
		return fmt.Errorf("serve names outside the cluster: %w", err)
	}
	f.upstreamAt = netip.MustParseAddrPort(conn.LocalAddr().String())
	f.upstream = &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 300}
		switch {
		case !dns.IsSubDomain(outsideZone+".", q.Question[0].Name):
			m.Rcode = dns.RcodeNameError
		case header.Rrtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 1)}}
		case header.Rrtype == dns.TypeAAAA:
			m.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.ParseIP("2001:db8::1")}}
		}
		_ = w.WriteMsg(m) // a server that hears nothing asks again
	})}
	started := make(chan struct{})
	f.upstream.NotifyStartedFunc = func() { close(started) }
	go func() { _ = f.upstream.ActivateAndServe() }()
	<-started
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "skep-dns"}, Data: map[string]string{
		"config": fmt.Sprintf("zones: {%s: {servers: [%q]}}", outsideZone, f.upstreamAt)}}
	_, err = f.b.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Create(ctx, cm, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		f.b.progress("walks to names outside the cluster are not measured with the cluster's own DNS: it has a configuration, which is left alone")
		return nil
	}
	f.configured = err == nil
	return err
}

// contestant is a server under measurement; process is nil for the cluster's own.
type contestant struct {
	name    string
	addr    netip.AddrPort
	process *startedPeer
}

func (c contestant) pid() int {
	if c.process == nil {
		return 0
	}
	return c.process.cmd.Process.Pid
}

// measure starts all servers anew and measures them with n Services.
func (f *field) measure(ctx context.Context, n int) error {
	f.b.progress("making %d Services", n)
	if err := makeServices(ctx, f.b.Client, f.ns, f.made, n); err != nil {
		return fmt.Errorf("make Services: %w", err)
	}
	f.made = max(f.made, n)
	all := []contestant{{name: ownServer, addr: f.own}}
	for _, p := range f.o.Peers {
		dir, err := os.MkdirTemp(f.dir, p.Name)
		if err != nil {
			return err
		}
		started, err := startPeer(p, PeerConfig{Listen: netip.AddrPortFrom(f.nodeIP, 0), Upstream: f.upstreamAt, Domain: f.b.Domain, Kubeconfig: f.kubeconfig(), Dir: dir})
		if err != nil {
			return err
		}
		defer started.stop()
		all = append(all, contestant{name: p.Name, addr: started.addr, process: started})
	}
	for _, c := range all {
		a, err := newAsker(f.netns, c)
		if err != nil {
			return err
		}
		row, err := f.follow(ctx, a, n)
		err = errors.Join(err, a.conn.Close())
		if err != nil {
			return err
		}
		f.report.Servers = append(f.report.Servers, row)
	}
	if err := f.lookups(ctx, all, n); err != nil {
		return err
	}
	for i := range f.report.Servers[len(f.report.Servers)-len(all):] {
		if p := all[i].process; p != nil {
			row := &f.report.Servers[len(f.report.Servers)-len(all)+i]
			row.MemoryMiB, row.AnonymousMiB = p.memory()
		}
	}
	return nil
}

// lookups measures the most and one outstanding, then all at half of what the last server can do.
func (f *field) lookups(ctx context.Context, all []contestant, n int) error {
	svc := "." + f.ns + ".svc." + f.b.Domain + "."
	var free, walking []Lookup
	for _, l := range []Lookup{{Case: caseExisting, Name: "svc-" + strconv.Itoa(n/2) + svc}, {Case: caseMissing, Name: "no-such-service" + svc, Rcode: dns.RcodeNameError}} {
		for _, c := range all {
			l.Server, l.Addr, l.PID = c.name, c.addr, c.pid()
			free = append(free, l)
		}
	}
	www := "www." + outsideZone + "."
	names := strings.Join([]string{www[:len(www)-1] + svc, www + "svc." + f.b.Domain + ".", www + f.b.Domain + ".", www}, ",")
	for _, c := range all {
		if c.process != nil || f.configured {
			walking = append(walking, Lookup{Server: c.name, Case: caseWalk, Addr: c.addr, Name: names})
		}
	}
	got, err := f.load(ctx, append(free, walking...))
	if err != nil {
		return err
	}
	peer := all[len(all)-1].name
	var pacedLookups []Lookup
	for _, l := range free {
		l.Rate = int(got.of(Lookup{Server: peer, Case: l.Case}, 0, func(s lookupSample) float64 { return s.Queries })) / 2
		pacedLookups = append(pacedLookups, l)
	}
	slow, err := f.load(ctx, pacedLookups)
	if err != nil {
		return err
	}
	for key, s := range slow {
		got[key] = s
	}
	for _, l := range append(free, walking...) {
		row := got.row(l)
		row.Services = n
		if l.Case != caseWalk {
			row.DNSPerf = f.dnsperf(ctx, l)
		}
		f.report.Rows = append(f.report.Rows, row)
	}
	return nil
}
