package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// askEvery is the time between two look-ups while a name is waited for.
const askEvery = 200 * time.Microsecond

// followWithin bounds the wait for a name to come or go: CoreDNS caches a denial for 30 s.
const followWithin = time.Minute

func makeServices(ctx context.Context, client kubernetes.Interface, ns string, from, to int) error {
	var group errgroup.Group
	group.SetLimit(32)
	for i := from; i < to; i++ {
		group.Go(func() error { return makeService(ctx, client, ns, "svc-"+strconv.Itoa(i), i) })
	}
	return group.Wait()
}

// makeService makes a Service with two endpoints that nobody is at.
func makeService(ctx context.Context, client kubernetes.Interface, ns, name string, i int) error {
	if err := makeName(ctx, client, ns, name); err != nil {
		return err
	}
	portName, protocol, port, last := "http", corev1.ProtocolTCP, int32(8080), fmt.Sprintf("%d.%d", i/250%250, i%250+1)
	_, err := client.DiscoveryV1().EndpointSlices(ns).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"198.18." + last}}, {Addresses: []string{"198.19." + last}}},
	}, metav1.CreateOptions{})
	return err
}

// makeName makes a Service without endpoints, which has its name at once.
func makeName(ctx context.Context, client kubernetes.Interface, ns, name string) error {
	_, err := client.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}}, metav1.CreateOptions{})
	return err
}

// asker asks a server from the load pod's network.
type asker struct {
	contestant
	conn *dns.Conn
}

func newAsker(netns string, c contestant) (*asker, error) {
	conn, err := dialFrom(netns, c)
	if err != nil {
		return nil, fmt.Errorf("ask %s from the load's network: %w", c.name, err)
	}
	return &asker{contestant: c, conn: &dns.Conn{Conn: conn}}, nil
}

// dialFrom connects a UDP socket in another network namespace.
func dialFrom(netns string, c contestant) (net.Conn, error) {
	ns, err := os.Open(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	type dialed struct {
		fd  int
		err error
	}
	result := make(chan dialed)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends here, with its namespace
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- dialed{err: err}
			return
		}
		fd, err := dialUDP(c.addr)
		result <- dialed{fd, err}
	}()
	d := <-result
	if d.err != nil {
		return nil, d.err
	}
	f := os.NewFile(uintptr(d.fd), "udp")
	defer f.Close()
	return net.FileConn(f)
}

// lookup asks once; an error is an answer that is none.
func (a *asker) lookup(name string) (rcode int, err error) {
	if err := a.conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return 0, err
	}
	m, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), a.conn)
	if err != nil {
		return 0, err
	}
	return m.Rcode, nil
}

// await asks until the code is the wanted one, and returns how long that took.
func (a *asker) await(ctx context.Context, name string, rcode int) (time.Duration, error) {
	began := time.Now()
	for time.Since(began) < followWithin && ctx.Err() == nil {
		if got, err := a.lookup(name); err == nil && got == rcode {
			return time.Since(began), nil
		}
		time.Sleep(askEvery)
	}
	return 0, fmt.Errorf("%s does not answer %s for %s within %v", a.name, dns.RcodeToString[rcode], name, followWithin)
}

// follow waits until the server knows all Services, then makes and removes some and sees how soon their names are there and gone.
func (f *field) follow(ctx context.Context, a *asker, n int) (DNSServerRow, error) {
	row := DNSServerRow{Services: n, Server: a.name}
	if _, err := a.await(ctx, f.fqdn("svc-"+strconv.Itoa(n-1)), dns.RcodeSuccess); err != nil {
		return row, err
	}
	f.b.progress("names that come and go: %s", a.name)
	var created, asked, deleted []time.Duration
	for i := range 2 * f.o.Trials {
		before := i%2 == 0
		if before && maxOf(asked) > time.Second {
			continue // a server that keeps denials: one such wait shows it
		}
		came, went, err := f.trial(ctx, a, fmt.Sprintf("trial-%d-%s-%d", n, a.name, i), before, maxOf(deleted) < time.Second)
		if err != nil {
			return row, err
		}
		if before {
			asked = append(asked, came)
		} else {
			created = append(created, came)
		}
		if went > 0 {
			deleted = append(deleted, went)
		}
	}
	ms := func(d []time.Duration, p float64) float64 { return roundTenth(percentile(d, p) / 1000) }
	row.CreateP50Ms, row.CreateP99Ms, row.AskedP99Ms, row.DeleteP99Ms = ms(created, 50), ms(created, 99), ms(asked, 99), ms(deleted, 99)
	return row, nil
}

func maxOf(d []time.Duration) (longest time.Duration) {
	for _, one := range d {
		longest = max(longest, one)
	}
	return longest
}

func (f *field) fqdn(service string) string { return service + "." + f.ns + ".svc." + f.b.Domain + "." }

// trial makes and removes one Service; before asks for its name first, end waits for its name to go.
func (f *field) trial(ctx context.Context, a *asker, name string, before, end bool) (created, deleted time.Duration, err error) {
	if before {
		if _, err := a.lookup(f.fqdn(name)); err != nil {
			return 0, 0, err
		}
	}
	if err := makeName(ctx, f.b.Client, f.ns, name); err != nil {
		return 0, 0, err
	}
	if created, err = a.await(ctx, f.fqdn(name), dns.RcodeSuccess); err != nil {
		return 0, 0, err
	}
	if err := f.b.Client.CoreV1().Services(f.ns).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, 0, err
	}
	if end {
		deleted, err = a.await(ctx, f.fqdn(name), dns.RcodeNameError)
	}
	return created, deleted, err
}

var dnsperfRate = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)

// dnsperf is what the program of that name finds for a look-up, 0 where it is not installed.
func (f *field) dnsperf(ctx context.Context, l Lookup) float64 {
	binary, err := exec.LookPath("dnsperf")
	if err != nil {
		return 0
	}
	file := filepath.Join(f.dir, "dnsperf")
	if err := os.WriteFile(file, []byte(l.Name+" A\n"), 0o600); err != nil {
		return 0
	}
	out, err := exec.CommandContext(ctx, "nsenter", "--net="+f.netns, binary, "-s", l.Addr.Addr().String(), "-p", strconv.Itoa(int(l.Addr.Port())), "-d", file,
		"-l", "2", "-c", "8", "-T", "2", "-q", "128").CombinedOutput()
	if m := dnsperfRate.FindSubmatch(out); err == nil && m != nil {
		rate, _ := strconv.ParseFloat(string(m[1]), 64)
		return roundTenth(rate)
	}
	f.b.progress("dnsperf: %v: %s", err, out)
	return 0
}
