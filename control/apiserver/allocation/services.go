package allocation

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/skep-io/skep/control/api"
)

// Config says what may be given out.
type Config struct {
	// Services are the ranges of cluster IPs, one or two of different families, the default family's first. Ports is the range
	// of node ports.
	Services []netip.Prefix
	Ports    Ports
	// Reserved are cluster IPs that only the named Service ("namespace/name") gets.
	Reserved map[netip.Addr]string
}

// Services allocates for Services as they are created, changed and deleted. It is safe for concurrent use.
type Services struct {
	cfg Config
	// ips are in the order of cfg.Services.
	ips   []addresses
	ports *pool
}

// New returns an allocator that knows the reserved addresses alone; Restore adds what stored Services have.
func New(cfg Config) *Services {
	s := &Services{cfg: cfg, ports: newPorts(cfg.Ports)}
	for _, prefix := range cfg.Services {
		s.ips = append(s.ips, newAddresses(prefix))
	}
	for ip, owner := range cfg.Reserved {
		if pool, n, ok := s.find(ip); ok {
			_, _ = pool.take(n, owner) // the pool is empty
		}
	}
	return s
}

// find returns the range that an address is of, and its number there.
func (s *Services) find(ip netip.Addr) (pool addresses, n int, ok bool) {
	for _, pool := range s.ips {
		if n, ok := pool.index(ip); ok {
			return pool, n, true
		}
	}
	return addresses{}, 0, false
}

// Hook makes the store allocate in the course of its writes.
func (s *Services) Hook(store *genericregistry.Store) {
	store.BeginCreate = func(_ context.Context, obj runtime.Object, o *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		return s.begin(obj.(*corev1.Service), nil, dryrun.IsDryRun(o.DryRun))
	}
	store.BeginUpdate = func(_ context.Context, obj, old runtime.Object, o *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
		return s.begin(obj.(*corev1.Service), old.(*corev1.Service), dryrun.IsDryRun(o.DryRun))
	}
	store.AfterDelete = func(obj runtime.Object, o *metav1.DeleteOptions) {
		if !dryrun.IsDryRun(o.DryRun) {
			s.releaseExcept(obj.(*corev1.Service), nil)
		}
	}
}

// Restore notes what a stored Service has. An address outside the ranges, which the cluster had before, is left to the Service that
// has it. Two Services with the same address or port, which only a foreign writer to the
// store can have made, leave it with the first.
func (s *Services) Restore(svc *corev1.Service) error {
	t := transaction{services: s, owner: ownerOf(svc)}
	for _, ip := range svc.Spec.ClusterIPs {
		addr, err := netip.ParseAddr(ip)
		if _, _, ok := s.find(addr); err == nil && ok {
			if err := t.takeIP(addr); err != nil {
				return fmt.Errorf("service %s: cluster IP %s: %w", t.owner, ip, err)
			}
		}
	}
	for port := range portsOf(svc) {
		if err := t.takePort(port); err != nil {
			return fmt.Errorf("service %s: node port %d: %w", t.owner, port, err)
		}
	}
	return nil
}

// begin fills in what the Service needs and returns what ends the write: a failed or dry one gives back what it took, a
// successful one what the old object had and the new one has not.
func (s *Services) begin(svc, old *corev1.Service, dry bool) (genericregistry.FinishFunc, error) {
	api.NormalizeClusterIPs(svc, old)
	if old != nil {
		api.KeepAllocated(svc, old)
	}
	t := &transaction{services: s, owner: ownerOf(svc)}
	if err := t.fill(svc, old); err != nil {
		t.undo()
		return nil, err
	}
	return func(_ context.Context, success bool) {
		switch {
		case !success || dry:
			t.undo()
		case old != nil:
			s.releaseExcept(old, svc)
		}
	}, nil
}

// releaseExcept frees what svc has and keep, which may be nil, has not.
func (s *Services) releaseExcept(svc, keep *corev1.Service) {
	kept := map[string]bool{}
	keptPorts := map[int32]bool{}
	if keep != nil {
		for _, ip := range keep.Spec.ClusterIPs {
			kept[ip] = true
		}
		keptPorts = portsOf(keep)
	}
	owner := ownerOf(svc)
	for _, ip := range svc.Spec.ClusterIPs {
		addr, err := netip.ParseAddr(ip)
		if pool, n, ok := s.find(addr); err == nil && ok && !kept[ip] && s.cfg.Reserved[addr] == "" {
			pool.release(n, owner)
		}
	}
	for port := range portsOf(svc) {
		if !keptPorts[port] {
			s.ports.release(int(port-s.cfg.Ports.Min), owner)
		}
	}
}

func ownerOf(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }

// portsOf are the ports that a Service holds on nodes.
func portsOf(svc *corev1.Service) map[int32]bool {
	ports := map[int32]bool{}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			ports[p.NodePort] = true
		}
	}
	if svc.Spec.HealthCheckNodePort != 0 {
		ports[svc.Spec.HealthCheckNodePort] = true
	}
	return ports
}

// transaction is what one write has taken so far.
type transaction struct {
	services *Services
	owner    string
	ips      []netip.Addr
	ports    []int
}

func (t *transaction) undo() {
	for _, ip := range t.ips {
		if pool, n, ok := t.services.find(ip); ok {
			pool.release(n, t.owner)
		}
	}
	for _, n := range t.ports {
		t.services.ports.release(n, t.owner)
	}
}

// fill gives svc the addresses and ports that it needs. An object that validation will refuse is left as it is.
func (t *transaction) fill(svc, old *corev1.Service) error {
	if len(api.ValidateClusterIPs(svc, old)) > 0 {
		return nil
	}
	if err := t.services.chooseFamilies(svc, old); err != nil {
		return err
	}
	if err := t.fillIPs(svc, old); err != nil {
		return err
	}
	return t.fillPorts(svc)
}

// fillIPs gives svc a cluster IP of each of its families. Those that it had stay as they are, whatever the ranges are by now.
func (t *transaction) fillIPs(svc, old *corev1.Service) error {
	spec := &svc.Spec
	if !api.NeedsClusterIP(svc) || spec.ClusterIP == corev1.ClusterIPNone || unchangedDual(svc, old) {
		return nil
	}
	for i, family := range spec.IPFamilies {
		if i == len(spec.ClusterIPs) {
			ip, err := t.nextIP(family)
			if err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
			}
			spec.ClusterIPs = append(spec.ClusterIPs, ip.String())
			continue
		}
		ip := spec.ClusterIPs[i]
		if old != nil && slices.Contains(old.Spec.ClusterIPs, ip) {
			continue
		}
		addr, err := netip.ParseAddr(ip)
		if err == nil {
			err = t.takeIP(addr)
		}
		if err != nil {
			return invalid(svc, field.Invalid(field.NewPath("spec", "clusterIPs"), spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %v", ip, err)))
		}
	}
	if len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	return nil
}

func (t *transaction) nextIP(family corev1.IPFamily) (netip.Addr, error) {
	for _, pool := range t.services.ips {
		if familyOf(pool.prefix.Addr()) != family {
			continue
		}
		n, err := pool.next(t.owner)
		if err != nil {
			return netip.Addr{}, err
		}
		t.ips = append(t.ips, pool.address(n))
		return pool.address(n), nil
	}
	return netip.Addr{}, fmt.Errorf("no range of family %s", family)
}

func (t *transaction) takeIP(addr netip.Addr) error {
	pool, n, ok := t.services.find(addr)
	if !ok {
		return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", addr, t.services.rangeOf(addr))
	}
	fresh, err := pool.take(n, t.owner)
	if fresh {
		t.ips = append(t.ips, addr)
	}
	return err
}

// rangeOf is where an address of a family should be.
func (s *Services) rangeOf(addr netip.Addr) netip.Prefix {
	for _, p := range s.cfg.Services {
		if p.Addr().Is4() == addr.Is4() {
			return p
		}
	}
	return s.cfg.Services[0]
}

// fillPorts takes the ports that are named, then chooses the others. Ports of different protocols may share a number.
func (t *transaction) fillPorts(svc *corev1.Service) error {
	if api.NeedsNodePort(svc) {
		for i, p := range svc.Spec.Ports {
			if p.NodePort == 0 {
				continue
			}
			if err := t.takePort(p.NodePort); err != nil {
				return invalid(svc, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error()))
			}
		}
		if err := t.choosePorts(svc); err != nil {
			return err
		}
	}
	if !api.NeedsHealthCheckPort(svc) {
		return nil
	}
	if port := svc.Spec.HealthCheckNodePort; port != 0 {
		if err := t.takePort(port); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %d: %w", port, err))
		}
		return nil
	}
	port, err := t.nextPort()
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort: %w", err))
	}
	svc.Spec.HealthCheckNodePort = port
	return nil
}

// choosePorts gives each port without a number one. A port that another protocol of the Service serves gets the same number.
func (t *transaction) choosePorts(svc *corev1.Service) error {
	chosen := map[int32]corev1.ServicePort{}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			chosen[p.Port] = p
		}
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if twin, ok := chosen[p.Port]; ok && twin.Protocol != p.Protocol {
			p.NodePort = twin.NodePort
			continue
		}
		port, err := t.nextPort()
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		p.NodePort = port
		chosen[p.Port] = *p
	}
	return nil
}

func (t *transaction) nextPort() (int32, error) {
	n, err := t.services.ports.next(t.owner)
	if err != nil {
		return 0, err
	}
	t.ports = append(t.ports, n)
	return int32(n) + t.services.cfg.Ports.Min, nil
}

func (t *transaction) takePort(port int32) error {
	r := t.services.cfg.Ports
	if port < r.Min || port > r.Max {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", r)
	}
	fresh, err := t.services.ports.take(int(port-r.Min), t.owner)
	if fresh {
		t.ports = append(t.ports, int(port-r.Min))
	}
	return err
}

func invalid(svc *corev1.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
}
