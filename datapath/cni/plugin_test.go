package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/datapath/ipam"
	"github.com/skep-io/skep/datapath/podnet"
)

// The test binary is the plugin too, as the real one is.
func TestMain(m *testing.M) {
	if Invoked() {
		os.Exit(Plugin())
	}
	os.Exit(m.Run())
}

// fakeNetwork remembers what is attached, and fails with err.
type fakeNetwork struct {
	mu       sync.Mutex
	attached map[string]podnet.Pod
	err      error
}

func (f *fakeNetwork) attachment() podnet.Attachment {
	return podnet.Attachment{
		IPs: addresses("10.244.7.5", "fd00:10:244:7::5"), Routers: addresses("10.244.7.1", "fd00:10:244:7::1"), MTU: 1450,
		HostDevice: "skep0123456789a", HostMAC: net.HardwareAddr{10, 1, 0, 0, 0, 1}, PodMAC: net.HardwareAddr{10, 2, 0, 0, 0, 1},
	}
}

func addresses(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func (f *fakeNetwork) Attach(_ context.Context, p podnet.Pod) (podnet.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return podnet.Attachment{}, f.err
	}
	f.attached[p.Sandbox] = p
	return f.attachment(), nil
}

func (f *fakeNetwork) Check(_ context.Context, p podnet.Pod) (podnet.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.attached[p.Sandbox]; !ok {
		return podnet.Attachment{}, fmt.Errorf("sandbox %s: %w", p.Sandbox, podnet.ErrNotAttached)
	}
	return f.attachment(), nil
}

func (f *fakeNetwork) Detach(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attached, id)
	return f.err
}

func (f *fakeNetwork) Retain(_ context.Context, ids []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.attached {
		if !slices.Contains(ids, id) {
			delete(f.attached, id)
		}
	}
	return nil
}

func (f *fakeNetwork) has(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.attached[id]
	return ok
}

// agent is a server under test with its API.
type agent struct {
	network *fakeNetwork
	client  *fake.Clientset
	pods    *Pods
	socket  string
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{network: &fakeNetwork{attached: map[string]podnet.Pod{}}, client: fake.NewClientset(), socket: SocketIn(t.TempDir())}
	factory := informers.NewSharedInformerFactory(a.client, 0)
	var err error
	if a.pods, err = NewPods("node-a", factory, a.client); err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	return a
}

// start serves until the returned function is called, or the test ends.
func (a *agent) start(t *testing.T) (stop func()) {
	t.Helper()
	s, err := NewServer(Config{Socket: a.socket, Network: a.network, Pods: a.pods, Patience: 300 * time.Millisecond,
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func (a *agent) add(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if _, err := a.client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// webPod is a pod of this node.
func webPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web"}, Spec: corev1.PodSpec{NodeName: "node-a"}}
}

// ask runs the plugin as a runtime does. extra are parts of the configuration.
func (a *agent) ask(t *testing.T, command, container, args, extra string) (string, *types.Error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net",
		"CNI_NETNS_OVERRIDE=1", "CNI_PATH=/", "CNI_ARGS=" + args}
	cmd.Stdin = strings.NewReader(`{"cniVersion": "1.1.0", "name": "skep", "type": "skep", "socket": "` + a.socket + `"` + extra + `}`)
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		failure := &types.Error{}
		if err := json.Unmarshal(out, failure); err != nil {
			t.Fatalf("%s: %v: %s %s", command, err, out, exit.Stderr)
		}
		return "", failure
	case err != nil:
		t.Fatal(err)
	}
	return string(out), nil
}

const webArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=uid-web;K8S_POD_INFRA_CONTAINER_ID=c1"

func TestAddAndDel(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.start(t)
	a.add(t, webPod())
	out, failure := a.ask(t, "ADD", "c1", webArgs, "")
	if failure != nil {
		t.Fatal(failure)
	}
	parsed, err := types100.NewResult([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	r := parsed.(*types100.Result)
	if len(r.IPs) != 2 || r.IPs[0].Address.String() != "10.244.7.5/32" || r.IPs[1].Gateway.String() != "fd00:10:244:7::1" || *r.IPs[1].Interface != 1 {
		t.Errorf("addresses: %v", r.IPs)
	}
	if len(r.Routes) != 2 || r.Routes[0].Dst.String() != "0.0.0.0/0" || r.Routes[1].Dst.String() != "::/0" {
		t.Errorf("routes: %v", r.Routes)
	}
	if i := r.Interfaces; len(i) != 2 || i[0].Sandbox != "" || i[1].Sandbox != "/proc/self/ns/net" || i[1].Name != "eth0" || i[1].Mtu != 1450 {
		t.Errorf("devices: %v", i)
	}
	if p := a.network.attached["c1+eth0"]; p.UID != "uid-web" || p.Identity.Namespace != "default" || p.Device != "eth0" || p.NetNS == nil {
		t.Errorf("attached %+v", p)
	}

	before := `, "prevResult": ` + out
	if _, failure := a.ask(t, "CHECK", "c1", webArgs, before); failure != nil {
		t.Error(failure)
	}
	for range 2 {
		if _, failure := a.ask(t, "DEL", "c1", webArgs, before); failure != nil {
			t.Error(failure)
		}
	}
	if a.network.has("c1+eth0") {
		t.Error("DEL leaves it attached")
	}
	if _, failure := a.ask(t, "CHECK", "c1", webArgs, before); failure == nil || failure.Code != types.ErrUnknownContainer {
		t.Errorf("CHECK after DEL: %v", failure)
	}
}

// Old runtimes take the result in the version that they ask for.
func TestOlderVersion(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.start(t)
	a.add(t, webPod())
	// Of two members of a name the last counts.
	out, failure := a.ask(t, "ADD", "c1", webArgs, `, "cniVersion": "0.4.0"`)
	if failure != nil || !strings.Contains(out, `"cniVersion": "0.4.0"`) || !strings.Contains(out, `"version": "4"`) {
		t.Errorf("%v %s", failure, out)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	elsewhere := webPod()
	elsewhere.Spec.NodeName = "node-b"
	earlier := webPod()
	earlier.UID = "uid-earlier"
	unbound := webPod()
	unbound.Spec.NodeName = ""
	for _, row := range []struct {
		name                           string
		pod                            *corev1.Pod
		network                        error
		command, container, args, more string
		code                           uint
	}{
		{"no pod", nil, nil, "ADD", "c", webArgs, "", types.ErrTryAgainLater},
		{"an earlier pod of the name", earlier, nil, "ADD", "c", webArgs, "", types.ErrTryAgainLater},
		{"a pod that is bound to no node", unbound, nil, "ADD", "c", webArgs, "", types.ErrTryAgainLater},
		{"a pod of another node", elsewhere, nil, "ADD", "c", webArgs, "", types.ErrInternal},
		{"not a pod", nil, nil, "ADD", "c", "", "", types.ErrInvalidEnvironmentVariables},
		{"addresses used up", webPod(), ipam.ErrExhausted, "ADD", "c", webArgs, "", types.ErrTryAgainLater},
		{"the kernel refuses", webPod(), errors.New("no"), "ADD", "c", webArgs, "", types.ErrInternal},
		{"not the first plugin", webPod(), nil, "ADD", "c", webArgs, `, "prevResult": {"cniVersion": "1.1.0"}`, types.ErrInvalidNetworkConfig},
		{"socket missing", webPod(), nil, "ADD", "c", webArgs, `, "socket": ""`, types.ErrInvalidNetworkConfig},
		{"unknown version", webPod(), nil, "ADD", "c", webArgs, `, "cniVersion": "9.0.0"`, types.ErrIncompatibleCNIVersion},
		{"long id", webPod(), nil, "ADD", strings.Repeat("c", 129), webArgs, "", types.ErrInvalidEnvironmentVariables},
		{"bad id", webPod(), nil, "ADD", "../c", webArgs, "", types.ErrInvalidEnvironmentVariables},
		{"check of nothing", webPod(), nil, "CHECK", "c", webArgs, `, "prevResult": {"cniVersion": "1.1.0"}`, types.ErrUnknownContainer},
		{"check without result", webPod(), nil, "CHECK", "c", webArgs, "", types.ErrInvalidNetworkConfig},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := newAgent(t)
			a.network.err = row.network
			a.start(t)
			if row.pod != nil {
				a.add(t, row.pod)
			}
			_, failure := a.ask(t, row.command, row.container, row.args, row.more)
			if failure == nil || failure.Code != row.code {
				t.Errorf("error %v, want code %d", failure, row.code)
			}
		})
	}
}

// The kubelet hears of a pod from the same API, and may be the first to do so.
func TestAddWaitsForThePod(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	found := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		_, err := a.pods.Await(ctx, podName{"default", "web", "uid-web"})
		found <- err
	}()
	unbound := webPod()
	unbound.Spec.NodeName = ""
	a.add(t, unbound)
	select {
	case err := <-found:
		t.Fatalf("found an unbound pod: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := a.client.CoreV1().Pods("default").Update(t.Context(), webPod(), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-found; err != nil {
		t.Error(err)
	}
}

func TestWhoseSandbox(t *testing.T) {
	t.Parallel()
	mirror := webPod()
	mirror.UID, mirror.Annotations = "uid-mirror", map[string]string{mirrorAnnotation: "hash"}
	for _, row := range []struct{ name, uid, want string }{
		{"static pod", "hash", "uid-mirror"},
		{"runtime that does not tell the UID", "", "uid-mirror"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := newAgent(t)
			a.add(t, mirror)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			pod, err := a.pods.Await(ctx, podName{"default", "web", row.uid})
			if err != nil || string(pod.UID) != row.want {
				t.Errorf("%v %v", pod, err)
			}
		})
	}
}

func TestWithoutAgent(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	stop := a.start(t)
	a.add(t, webPod())
	if _, failure := a.ask(t, "ADD", "c1", webArgs, ""); failure != nil {
		t.Fatal(failure)
	}
	stop()
	for command, code := range map[string]uint{"ADD": types.ErrTryAgainLater, "STATUS": types.ErrPluginNotAvailable, "GC": types.ErrTryAgainLater} {
		if _, failure := a.ask(t, command, "c2", webArgs, ""); failure == nil || failure.Code != code {
			t.Errorf("%s: %v, want code %d", command, failure, code)
		}
	}
	if _, failure := a.ask(t, "DEL", "c1", webArgs, ""); failure != nil {
		t.Fatal(failure)
	}
	if !a.network.has("c1+eth0") {
		t.Fatal("somebody else than the agent detached it")
	}
	a.start(t)
	if a.network.has("c1+eth0") {
		t.Error("the next agent leaves it attached")
	}
	if left, err := deletionsBeside(a.socket).list(); err != nil || len(left) > 0 {
		t.Errorf("noted still: %v %v", left, err)
	}
}

func TestGC(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.start(t)
	a.add(t, webPod())
	for _, id := range []string{"kept", "gone"} {
		if _, failure := a.ask(t, "ADD", id, webArgs, ""); failure != nil {
			t.Fatal(failure)
		}
	}
	if _, failure := a.ask(t, "GC", "", "", `, "cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}]`); failure != nil {
		t.Fatal(failure)
	}
	if !a.network.has("kept+eth0") || a.network.has("gone+eth0") {
		t.Errorf("attached: %v", a.network.attached)
	}
}

func TestStatusAndVersion(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.start(t)
	if _, failure := a.ask(t, "STATUS", "", "", ""); failure != nil {
		t.Error(failure)
	}
	if out, failure := a.ask(t, "VERSION", "", "", ""); failure != nil || !strings.Contains(out, `"1.1.0"`) {
		t.Errorf("%v %s", failure, out)
	}
}

// A request as long as that of a large node arrives whole, with its file.
func TestLongRequest(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := request{Command: commandGC}
	for i := range 5000 {
		want.Valid = append(want.Valid, attachmentName{fmt.Sprintf("%064d", i), "eth0"})
	}
	go func() {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		got, ns, err := receive(c)
		answer := reply{}
		if err != nil || ns == nil || !slices.Equal(got.Valid, want.Valid) {
			answer.Error = types.NewError(types.ErrInternal, fmt.Sprint(err, ns, len(got.Valid)), "")
		}
		_ = json.NewEncoder(c).Encode(answer)
	}()
	file, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if answer, err := ask(socket, want, file); err != nil || answer.Error != nil {
		t.Errorf("%v %v", err, answer.Error)
	}
}
