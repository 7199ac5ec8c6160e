// Package load puts the BPF programs and maps into the kernel: it loads them
// configured for this node, re-uses the pinned maps of an earlier run,
// attaches by links that are pinned too, and replaces programs atomically.
// Nothing that it makes needs the process: programs go on when it is gone.
package load

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/datapath/abi"
)

var (
	// ErrNoTCX is returned by AttachPod and AttachNetdev when the kernel
	// has no tcx links (before 6.6). The caller then attaches [Objects.Program]
	// as direct-action clsact filters.
	ErrNoTCX = errors.New("the kernel has no tcx links")

	// ErrNoXDP is returned by AttachFront when the driver of the device
	// runs no XDP programs, or has no room for their packets.
	ErrNoXDP = errors.New("the driver runs no XDP program as the device is")

	// ErrForeignXDP is returned by AttachFront when the device has another
	// XDP program.
	ErrForeignXDP = errors.New("the device has an XDP program of somebody else")

	// ErrNotBPFFS is returned when the directory for pins is not in a BPF
	// file system.
	ErrNotBPFFS = errors.New("not in a bpf file system: run mount -t bpf bpf /sys/fs/bpf")
)

// Config is what the programs of a node are loaded with.
type Config struct {
	// Dir is where maps and links are pinned, in a BPF file system. Empty:
	// nothing is pinned, and everything goes with the process.
	Dir string

	// ClusterNetwork are the pod addresses of all nodes: never masqueraded.
	// Here and below: the first is of IPv4, the second of IPv6, and one that
	// is not valid says that the node has nothing of the family.
	ClusterNetwork, ClusterNetwork6 netip.Prefix
	// PodNetwork are the pod addresses of this node.
	PodNetwork, PodNetwork6 netip.Prefix
	// ServiceNetwork are the ClusterIPs.
	ServiceNetwork, ServiceNetwork6 netip.Prefix
	// GuestNetwork are the addresses of nodes that reach the outside through this one; not valid: there are none.
	GuestNetwork netip.Prefix
	// Router is the node's own address in PodNetwork.
	Router, Router6 netip.Addr

	// NodePortMin and NodePortMax bound the NodePorts. Zero: 30000-32767.
	NodePortMin, NodePortMax uint16
	// NATPortMin and NATPortMax bound the source ports of masqueraded
	// flows. They must not overlap the host's ip_local_port_range nor the
	// NodePorts. Zero: 61000-65535.
	NATPortMin, NATPortMax uint16

	// Logger is told of what had to be left out or replaced.
	Logger *slog.Logger
}

// Objects are the loaded programs and their maps. Safe for concurrent use.
type Objects struct {
	dir      string
	logger   *slog.Logger
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	replaced map[string]bool // maps of another layout that were, by name

	mu    sync.Mutex
	links []link.Link // guarded by mu; the ones that are not pinned
}

// Open loads the programs and creates the maps, or takes the ones pinned in
// cfg.Dir. Nothing is attached, and programs attached earlier run on, until
// the Attach methods replace them.
//
// Pinned maps of another layout are replaced: see [Objects.Upgrading].
//
// Returns ErrNotBPFFS if cfg.Dir cannot hold pins. Close releases the file
// descriptors.
func Open(cfg Config) (*Objects, error) {
	if cfg.Dir != "" {
		if err := ensureDir(cfg.Dir); err != nil {
			return nil, err
		}
	}
	specs, err := abi.Specs()
	if err != nil {
		return nil, err
	}
	o := &Objects{
		dir:      cfg.Dir,
		logger:   cfg.Logger,
		maps:     map[string]*ebpf.Map{},
		programs: map[string]*ebpf.Program{},
		replaced: map[string]bool{},
	}
	if o.logger == nil {
		o.logger = slog.New(slog.DiscardHandler)
	}
	allowMemory()
	if err := o.open(cfg, specs.All()); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

func (o *Objects) open(cfg Config, specs []*ebpf.CollectionSpec) error {
	if err := o.openMaps(specs); err != nil {
		return err
	}
	features, err := probe()
	if err != nil {
		return err
	}
	for _, spec := range specs {
		if err := configure(spec, cfg, features); err != nil {
			return err
		}
		if err := o.loadPrograms(spec); err != nil {
			return err
		}
	}
	return nil
}

// loadPrograms loads the programs of one object file on the shared maps.
func (o *Objects) loadPrograms(spec *ebpf.CollectionSpec) error {
	shared := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if m, ok := o.maps[name]; ok {
			shared[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer coll.Close()
	for name := range coll.Programs {
		o.programs[name] = coll.DetachProgram(name)
	}
	return nil
}

// Map returns a map by its name in abi, or nil. It belongs to o.
func (o *Objects) Map(name string) *ebpf.Map { return o.maps[name] }

// Program returns a program by its name in abi, or nil. It belongs to o.
func (o *Objects) Program(name string) *ebpf.Program { return o.programs[name] }

// Close releases the file descriptors. What is pinned and attached stays.
func (o *Objects) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.links {
		l.Close()
	}
	for _, p := range o.programs {
		p.Close()
	}
	for _, m := range o.maps {
		m.Close()
	}
	return nil
}

func (o *Objects) path(elem ...string) string {
	return filepath.Join(append([]string{o.dir}, elem...)...)
}

// Cleanup detaches and removes all that is pinned in dir, and dir. What is
// not there is no error.
func Cleanup(dir string) error {
	var errs []error
	links, err := pinnedLinks(filepath.Join(dir, linksDir))
	errs = append(errs, err)
	for _, path := range links {
		errs = append(errs, detachPinned(path))
	}
	errs = append(errs, os.RemoveAll(dir), unmount())
	return errors.Join(errs...)
}
