package load

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// Attached is a program that the packets of a device pass. Close releases it.
type Attached struct {
	Name string
	ID   uint32
	// Ours says that it works on this node's maps. Others are somebody else's, and must not be run for nothing.
	Ours    bool
	program *ebpf.Program
}

// Close releases the program, which stays where it is attached.
func (a Attached) Close() error { return a.program.Close() }

// Hooks finds the programs of devices, in the network namespace of the caller.
type Hooks struct{ drop *ebpf.Map }

// OpenHooks takes the maps pinned in dir, by which a node's own programs are recognised.
func OpenHooks(dir string) (*Hooks, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, abi.MapDrop), nil)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", abi.MapDrop, err)
	}
	return &Hooks{m}, nil
}

// Close releases the map.
func (h *Hooks) Close() error { return h.drop.Close() }

// Programs lists the programs at a hook of a device in the order in which packets pass them: those of tcx links, then filters,
// the numbers of whose programs the caller knows.
func (h *Hooks) Programs(device int, ingress bool, filters []uint32) ([]Attached, error) {
	at := ebpf.AttachTCXEgress
	if ingress {
		at = ebpf.AttachTCXIngress
	}
	var ids []uint32
	result, err := link.QueryPrograms(link.QueryOptions{Target: device, Attach: at})
	switch {
	case err == nil:
		for _, p := range result.Programs {
			ids = append(ids, uint32(p.ID))
		}
	case !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.EINVAL): // before 6.6
		return nil, fmt.Errorf("programs of device %d: %w", device, err)
	}
	var list []Attached
	for _, id := range append(ids, filters...) {
		a, err := h.open(id)
		if err != nil {
			return list, err
		}
		list = append(list, a)
	}
	return list, nil
}

func (h *Hooks) open(id uint32) (Attached, error) {
	ours, err := h.drop.Info()
	if err != nil {
		return Attached{}, err
	}
	own, _ := ours.ID()
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return Attached{}, fmt.Errorf("program %d: %w", id, err)
	}
	info, err := p.Info()
	if err != nil {
		p.Close()
		return Attached{}, fmt.Errorf("program %d: %w", id, err)
	}
	maps, _ := info.MapIDs()
	return Attached{Name: info.Name, ID: id, Ours: slices.Contains(maps, own), program: p}, nil
}

// Run sends a frame through the program as if the device had it, and returns the verdict and the frame as it is then. The kernel
// sends nothing anywhere; what the program writes to maps stays.
func (a Attached) Run(device int, frame []byte) (verdict int32, out []byte, err error) {
	// struct __sk_buff of the kernel's uapi; all but ifindex must be zero.
	context := [48]uint32{10: uint32(device)}
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: &context}
	v, err := a.program.Run(&opts)
	if err != nil {
		return 0, nil, fmt.Errorf("run %s: %w", a.Name, err)
	}
	return int32(v), opts.DataOut, nil
}

// HasFront says whether the XDP program of this node sees the packets of a device before tc does; pins are in dir.
func HasFront(dir string, device int) bool {
	l, err := link.LoadPinnedLink(filepath.Join(dir, linksDir, "front", fmt.Sprint(device), frontHook.program), nil)
	if err != nil {
		return false
	}
	return l.Close() == nil
}
