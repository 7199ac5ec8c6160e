package foreign

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandbox is a pod whose sandbox runs.
type sandbox struct {
	node *foreignNode
	pod  *corev1.Pod
	id   string
	// ip and ip6 are its addresses.
	ip, ip6 string
}

// netns is where the agent pins the sandbox's network namespace.
func (s sandbox) netns() string { return filepath.Join(s.node.dir, "run", "netns", s.id+"+eth0") }

func podNamed(name string, port int32) *corev1.Pod {
	grace := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{NodeName: worker, TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{
			Name: "echo", Image: sandboxImage, Ports: []corev1.ContainerPort{{ContainerPort: 8080, HostPort: port}},
		}}},
	}
}

// sandboxConfig is what a kubelet tells the runtime of a pod.
func (n *foreignNode) sandboxConfig(pod *corev1.Pod) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID)},
		Hostname:     pod.Name,
		LogDirectory: n.dir + "/log",
		Linux:        &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/" + n.name + "/pod-" + pod.Name, SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}},
	}
}

// runSandbox asks the runtime for a pod's sandbox and returns its id and addresses.
func (n *foreignNode) runSandbox(ctx context.Context, pod *corev1.Pod) (id string, ips []string, err error) {
	run, err := n.cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: n.sandboxConfig(pod)})
	if err != nil {
		return "", nil, err
	}
	made, err := n.cri.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: run.PodSandboxId})
	if err != nil {
		return run.PodSandboxId, nil, err
	}
	ips = append(ips, made.Status.Network.GetIp())
	for _, ip := range made.Status.Network.GetAdditionalIps() {
		ips = append(ips, ip.Ip)
	}
	return run.PodSandboxId, ips, nil
}

// start makes a pod and does of a kubelet's work what concerns the network.
func (n *foreignNode) start(t *testing.T, pod *corev1.Pod) sandbox {
	t.Helper()
	pod, err := n.client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, ips, err := n.runSandbox(t.Context(), pod)
	if id != "" {
		t.Cleanup(func() { n.removeSandbox(t, id) })
	}
	if err != nil || len(ips) != 2 {
		t.Fatal(ips, err)
	}
	must(t)("", update(func() error {
		fresh, err := n.client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		fresh.Status.Phase, fresh.Status.PodIP, fresh.Status.PodIPs = corev1.PodRunning, ips[0], []corev1.PodIP{{IP: ips[0]}, {IP: ips[1]}}
		fresh.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		_, err = n.client.CoreV1().Pods(pod.Namespace).UpdateStatus(t.Context(), fresh, metav1.UpdateOptions{})
		return err
	}))
	return sandbox{node: n, pod: pod, id: id, ip: ips[0], ip6: ips[1]}
}

// removeSandbox does what a kubelet does when a pod has ended; twice is not too often.
func (n *foreignNode) removeSandbox(t *testing.T, id string) {
	t.Helper()
	// Not the test's context, which has ended when its clean-up runs.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := n.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	if status.Code(err) == codes.NotFound {
		return
	}
	if err != nil {
		t.Errorf("stop sandbox: %v", err)
	}
	if _, err := n.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		t.Errorf("remove sandbox: %v", err)
	}
}

// call asks an address over HTTP from inside the sandbox, and returns who answered.
func (s sandbox) call(url string, args ...string) (string, error) {
	out, err := s.node.command(s.netns(), append([]string{"net", "call", url}, args...)...).CombinedOutput()
	return string(out), err
}

// eventually waits for what follows from an API object within moments.
func eventually(t *testing.T, what string, fn func() (string, error)) string {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		out, err := fn()
		if err == nil {
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// service makes a Service of the pods of a name and returns its cluster IPs.
func service(t *testing.T, n *foreignNode, name string) []string {
	t.Helper()
	families := corev1.IPFamilyPolicyRequireDualStack
	svc, err := n.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{IPFamilyPolicy: &families, Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr8080}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc.Spec.ClusterIPs
}

// missing checks that a file is not there.
func missing(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is left", p)
		} else if !os.IsNotExist(err) {
			t.Error(fmt.Errorf("%s: %w", p, err))
		}
	}
}
