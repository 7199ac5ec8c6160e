package packet_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/datapath/abi"
)

// TestRefusalOnOldKernels: before 5.18 a program cannot name the error; the
// socket is refused all the same. The programs as they are in the object file
// are configured for such a kernel.
func TestRefusalOnOldKernels(t *testing.T) {
	w := newWorld(t)
	specs, err := abi.Specs()
	if err != nil {
		t.Fatal(err)
	}
	shared := map[string]*ebpf.Map{}
	for _, name := range []string{abi.MapFrontend, abi.MapService, abi.MapSlot, abi.MapNode} {
		shared[name] = w.objects.Map(name)
	}
	coll, err := ebpf.NewCollectionWithOptions(specs.Sock, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	w.services(tcp(1, list(at(vip, 81)), nil))
	w.services(udp(2, list(at(vip, 81)), nil))
	old := &world{t: t, node: w.node, objects: w.objects, home: w.home}
	t.Run("old", func(t *testing.T) {
		old.t = t
		old.childCgroup()
		for name, attach := range map[string]ebpf.AttachType{
			abi.ProgConnect4: ebpf.AttachCGroupInet4Connect,
			abi.ProgSendmsg4: ebpf.AttachCGroupUDP4Sendmsg,
			abi.ProgConnect6: ebpf.AttachCGroupInet6Connect,
			abi.ProgSendmsg6: ebpf.AttachCGroupUDP6Sendmsg,
		} {
			l, err := link.AttachCgroup(link.CgroupOptions{Path: old.sockets, Attach: attach, Program: coll.Programs[name]})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
		old.translated(func() {
			old.wantRefused(w.node, "tcp", at(vip, 81))
			old.wantRefused(w.node, "udp", at(vip, 81))
			old.wantRefused(w.node, "tcp6", six2(at(vip, 81)))
			old.wantRefused(w.node, "udp6", six2(at(vip, 81)))
		})
	})
}
