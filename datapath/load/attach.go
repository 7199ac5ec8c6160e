package load

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

const linksDir = "links"

// hook is a program and where it attaches.
type hook struct {
	program string
	attach  ebpf.AttachType
}

// sockHooks in the order of attaching. What answers comes before what asks:
// a socket translated between two attachments must be able to see its
// Service in the replies.
var sockHooks = []hook{
	{abi.ProgRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
	{abi.ProgRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
	{abi.ProgGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{abi.ProgGetpeername6, ebpf.AttachCgroupInet6GetPeername},
	{abi.ProgSockRelease, ebpf.AttachCgroupInetSockRelease},
	{abi.ProgTCPState, ebpf.AttachCGroupSockOps},
	{abi.ProgConnect4, ebpf.AttachCGroupInet4Connect},
	{abi.ProgConnect6, ebpf.AttachCGroupInet6Connect},
	{abi.ProgSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
	{abi.ProgSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
}

// podHooks: seen from the host side of the veth, what the pod sends comes in.
var podHooks = []hook{
	{abi.ProgToPod, ebpf.AttachTCXEgress},
	{abi.ProgFromPod, ebpf.AttachTCXIngress},
}

var netdevHooks = []hook{
	{abi.ProgToNet, ebpf.AttachTCXEgress},
	{abi.ProgFromNet, ebpf.AttachTCXIngress},
}

// overlayHooks: what goes into the tunnel or comes out of it passes the
// tunnel's program first. They attach one behind the other.
var overlayHooks = []hook{
	{abi.ProgToOverlay, ebpf.AttachTCXEgress},
	{abi.ProgToNet, ebpf.AttachTCXEgress},
	{abi.ProgFromOverlay, ebpf.AttachTCXIngress},
	{abi.ProgFromNet, ebpf.AttachTCXIngress},
}

// AttachSock attaches the socket programs to the cgroup2 directory, beside
// what others attach there, or replaces the ones attached before.
//
// A program that somebody attached there exclusively makes it fail; the error
// names the program and the cgroup.
func (o *Objects) AttachSock(cgroup string) error {
	for _, h := range sockHooks {
		err := o.attach(o.path(linksDir, "sock"), h, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.attach, Program: p})
		})
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("attach %s to cgroup %s: another program is attached there exclusively: %s: detach it first: %w",
				h.program, cgroup, foreign(cgroup, h.attach), err)
		}
		if err != nil {
			return fmt.Errorf("attach %s to cgroup %s: %w", h.program, cgroup, err)
		}
	}
	return nil
}

// AttachPod attaches the pod programs to the host side of a pod's veth, or
// replaces the ones attached before. Returns ErrNoTCX before 6.6.
func (o *Objects) AttachPod(ifindex int) error { return o.attachDevice("pod", ifindex, podHooks) }

// AttachNetdev attaches the netdev programs to a device that leads outside,
// or replaces the ones attached before. Returns ErrNoTCX before 6.6.
func (o *Objects) AttachNetdev(ifindex int) error {
	return o.attachDevice("netdev", ifindex, netdevHooks)
}

// AttachOverlay attaches the programs of the tunnel and the netdev programs
// to the tunnel's device, or replaces the ones attached before. Returns
// ErrNoTCX before 6.6.
func (o *Objects) AttachOverlay(ifindex int) error {
	return o.attachDevice("overlay", ifindex, overlayHooks)
}

// DetachPod removes what AttachPod made. The device may be gone.
func (o *Objects) DetachPod(ifindex int) error { return o.detachDevice("pod", ifindex) }

// DetachNetdev removes what AttachNetdev made. The device may be gone.
func (o *Objects) DetachNetdev(ifindex int) error { return o.detachDevice("netdev", ifindex) }

// PodDevices lists the devices that AttachPod was called for, also by an
// earlier process. They may be gone.
func (o *Objects) PodDevices() ([]int, error) { return o.devices("pod") }

// NetdevDevices lists the devices that AttachNetdev was called for, also by
// an earlier process. They may be gone.
func (o *Objects) NetdevDevices() ([]int, error) { return o.devices("netdev") }

// frontHook has the type that links of XDP have.
var frontHook = hook{abi.ProgFront, ebpf.AttachXDP}

// AttachFront attaches the XDP program to a device, or replaces the one
// attached before. The driver must run it: ErrNoXDP says that it does not, and
// ErrForeignXDP that the device has a program of somebody else, which stays.
func (o *Objects) AttachFront(ifindex int) error {
	err := o.attach(o.path(linksDir, "front", strconv.Itoa(ifindex)), frontHook, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Interface: ifindex, Program: p, Flags: link.XDPDriverMode})
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("attach %s to device %d: %w", frontHook.program, ifindex, ErrForeignXDP)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE),
		errors.Is(err, unix.ENOMEM), errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("attach %s to device %d: %w: %w", frontHook.program, ifindex, ErrNoXDP, err)
	}
	return fmt.Errorf("attach %s to device %d: %w", frontHook.program, ifindex, err)
}

// DetachFront removes what AttachFront made. The device may be gone.
func (o *Objects) DetachFront(ifindex int) error { return o.detachDevice("front", ifindex) }

func (o *Objects) attachDevice(kind string, ifindex int, hooks []hook) error {
	dir := o.path(linksDir, kind, strconv.Itoa(ifindex))
	for _, h := range hooks {
		err := o.attach(dir, h, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: h.attach})
		})
		if errors.Is(err, ebpf.ErrNotSupported) {
			return errors.Join(ErrNoTCX, os.RemoveAll(dir))
		}
		if err != nil {
			return fmt.Errorf("attach %s to device %d: %w", h.program, ifindex, err)
		}
	}
	return nil
}

func (o *Objects) detachDevice(kind string, ifindex int) error {
	dir := o.path(linksDir, kind, strconv.Itoa(ifindex))
	links, err := pinnedLinks(dir)
	errs := []error{err}
	for _, path := range links {
		errs = append(errs, detachPinned(path))
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

func (o *Objects) devices(kind string) ([]int, error) {
	entries, err := os.ReadDir(o.path(linksDir, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ifindexes []int
	for _, e := range entries {
		if i, err := strconv.Atoi(e.Name()); err == nil {
			ifindexes = append(ifindexes, i)
		}
	}
	return ifindexes, nil
}

// attach puts the program of h behind the link pinned in dir, which swaps it
// between two packets, or makes the link.
func (o *Objects) attach(dir string, h hook, create func(*ebpf.Program) (link.Link, error)) error {
	program := o.programs[h.program]
	path := filepath.Join(dir, h.program)
	var l link.Link
	err := fs.ErrNotExist
	if o.dir != "" {
		l, err = link.LoadPinnedLink(path, nil)
	}
	if err == nil {
		defer l.Close()
		if err := l.Update(program); err == nil {
			return nil
		}
		// The device or cgroup is gone, and its number may have come back.
		o.logger.Info("link is dead and made anew", "link", path)
		if err := os.Remove(path); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s: %w", path, err)
	}
	if l, err = create(program); err != nil {
		return err
	}
	if o.dir == "" {
		o.keep(l)
		return nil
	}
	defer l.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pin link %s: %w", path, err)
	}
	return nil
}

// keep holds a link that is not pinned until Close.
func (o *Objects) keep(l link.Link) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.links = append(o.links, l)
}

// pinnedLinks lists the files below dir. A dir that is not there has none.
func pinnedLinks(dir string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return paths, err
}

// detachPinned takes the link off its hook, also if others hold it open, and
// removes the pin.
func detachPinned(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	defer l.Close()
	// Without support for detaching, or when its device has gone, removing
	// the pin is what there is to do.
	_ = l.Detach()
	return os.Remove(path)
}

// foreign names the programs attached to a cgroup, for messages.
func foreign(cgroup string, attach ebpf.AttachType) string {
	dir, err := os.Open(cgroup)
	if err != nil {
		return err.Error()
	}
	defer dir.Close()
	result, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: attach})
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, p := range result.Programs {
		names = append(names, programName(p.ID))
	}
	return strings.Join(names, ", ")
}

// programName is the name and id of a loaded program.
func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("program id %d", id)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return fmt.Sprintf("program id %d", id)
	}
	return fmt.Sprintf("program %q (id %d)", info.Name, id)
}
