// Package node registers this machine in the cluster, reports what it is and that it is well, and decides whether it can take
// a pod.
package node

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	goruntime "runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/control/agent/container"
)

// Version is what the node says its kubelet is.
const Version = "v1.37.2"

// heartbeat is how often the status is written although nothing changed; the lease tells liveness meanwhile.
const heartbeat = 5 * time.Minute

// Config is what a Reporter needs.
type Config struct {
	Name string
	// IPs are the node's addresses, primary first.
	IPs    []netip.Addr
	Labels map[string]string
	// DataDir is on the file system whose size is the node's ephemeral storage.
	DataDir string
	// Port is that of the agent's https server.
	Port int32
	// RuntimeVersion is the containerd version.
	RuntimeVersion string
	// Images lists the images on the node.
	Images func(ctx context.Context) ([]container.Image, error)
	Client kubernetes.Interface
	Logger *slog.Logger
}

// Reporter keeps the Node object and its lease.
type Reporter struct {
	cfg Config
	mu  sync.Mutex // guards what follows
	err error
	// settled says that err is known, not only the fault to begin with.
	settled bool
	wake    chan struct{}
}

// New returns a Reporter whose node is not ready because of fault until SetFault says more. A Node that exists already is left
// as it is until then: its pods run, and an agent that starts again must not have them evicted.
func New(cfg Config, fault error) *Reporter {
	return &Reporter{cfg: cfg, err: fault, wake: make(chan struct{}, 1)}
}

// SetFault changes why the node is not ready; nil makes it ready.
func (r *Reporter) SetFault(err error) {
	r.mu.Lock()
	r.err, r.settled = err, true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Reporter) known() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settled
}

func (r *Reporter) fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Run registers the node and keeps its status and lease until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	go r.renew(ctx)
	wait := 50 * time.Millisecond
	for {
		next := heartbeat
		if err := r.report(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("report node", "err", err)
			next, wait = wait, min(2*wait, 10*time.Second)
		} else {
			wait = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-time.After(next):
		}
	}
}

// report makes the API show the node as it is.
func (r *Reporter) report(ctx context.Context) error {
	nodes := r.cfg.Client.CoreV1().Nodes()
	have, err := nodes.Get(ctx, r.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.cfg.Name, Labels: r.labels()}}
		// The status of a new node is kept by the API, which saves a round trip before the node is ready.
		fresh.Status = r.Status(ctx, corev1.NodeStatus{})
		if have, err = nodes.Create(ctx, fresh, metav1.CreateOptions{}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if have, err = r.relabel(ctx, have); err != nil || !r.known() {
		return err
	}
	status := r.Status(ctx, have.Status)
	if equality.Semantic.DeepEqual(status, have.Status) {
		return nil
	}
	want := have.DeepCopy()
	want.Status = status
	_, err = nodes.UpdateStatus(ctx, want, metav1.UpdateOptions{})
	return err
}

func (r *Reporter) labels() map[string]string {
	out := map[string]string{
		corev1.LabelHostname: r.cfg.Name, corev1.LabelOSStable: goruntime.GOOS, corev1.LabelArchStable: goruntime.GOARCH,
		"beta.kubernetes.io/os": goruntime.GOOS, "beta.kubernetes.io/arch": goruntime.GOARCH,
	}
	for k, v := range r.cfg.Labels {
		out[k] = v
	}
	return out
}

func (r *Reporter) relabel(ctx context.Context, n *corev1.Node) (*corev1.Node, error) {
	want := n.DeepCopy()
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	for k, v := range r.labels() {
		want.Labels[k] = v
	}
	if equality.Semantic.DeepEqual(n.Labels, want.Labels) {
		return n, nil
	}
	return r.cfg.Client.CoreV1().Nodes().Update(ctx, want, metav1.UpdateOptions{})
}

// Status is the node's status, given the one that the API has.
func (r *Reporter) Status(ctx context.Context, old corev1.NodeStatus) corev1.NodeStatus {
	out := *old.DeepCopy()
	out.Capacity = Capacity(r.cfg.DataDir)
	out.Allocatable = out.Capacity.DeepCopy()
	out.Addresses = nil
	for _, ip := range r.cfg.IPs {
		out.Addresses = append(out.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	out.Addresses = append(out.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: r.cfg.Name})
	out.DaemonEndpoints.KubeletEndpoint.Port = r.cfg.Port
	out.NodeInfo = info(r.cfg.RuntimeVersion)
	out.Images = nil
	if images, err := r.cfg.Images(ctx); err == nil {
		for _, i := range images[:min(len(images), 50)] {
			names := i.Tags
			if i.Ref != "" {
				names = append([]string{i.Ref}, names...)
			}
			out.Images = append(out.Images, corev1.ContainerImage{Names: names, SizeBytes: i.Size})
		}
	}
	out.Conditions = r.conditions(old.Conditions)
	return out
}

// Capacity is what the machine has, for pods to use.
func Capacity(dataDir string) corev1.ResourceList {
	var mem unix.Sysinfo_t
	var fs unix.Statfs_t
	_, _ = unix.Sysinfo(&mem), unix.Statfs(dataDir, &fs)
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(int64(mem.Totalram)*int64(mem.Unit), resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(110, resource.DecimalSI),
	}
}

func info(runtimeVersion string) corev1.NodeSystemInfo {
	var uts unix.Utsname
	kernel := ""
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	return corev1.NodeSystemInfo{
		MachineID: word("/etc/machine-id"), SystemUUID: word("/sys/class/dmi/id/product_uuid"), BootID: word("/proc/sys/kernel/random/boot_id"),
		KernelVersion: kernel, OSImage: osImage(), ContainerRuntimeVersion: "containerd://" + strings.TrimPrefix(runtimeVersion, "v"),
		KubeletVersion: Version, OperatingSystem: goruntime.GOOS, Architecture: goruntime.GOARCH,
	}
}

// word is the text of a file; one that cannot be read is empty.
func word(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func osImage() string {
	for line := range strings.Lines(word("/etc/os-release")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return goruntime.GOOS
}

func (r *Reporter) conditions(old []corev1.NodeCondition) []corev1.NodeCondition {
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if err := r.fault(); err != nil {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", err.Error()
	}
	list := []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		ready,
	}
	now := metav1.Now().Rfc3339Copy()
	mine := map[corev1.NodeConditionType]bool{}
	for i := range list {
		c := &list[i]
		mine[c.Type] = true
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		for _, o := range old {
			if o.Type == c.Type && o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
				if o.Reason == c.Reason && o.Message == c.Message && now.Sub(o.LastHeartbeatTime.Time) < heartbeat-time.Second {
					c.LastHeartbeatTime = o.LastHeartbeatTime
				}
			}
		}
	}
	for _, o := range old {
		if !mine[o.Type] {
			list = append(list, o)
		}
	}
	return list
}
