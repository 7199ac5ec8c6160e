package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespace makes a namespace for the test and removes it, with all that is in it, afterwards.
func namespace(t *testing.T) string {
	t.Helper()
	ctx := context.Background()
	ns, err := shared.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := shared.skep("get", "pods,services,endpointslices,events", "-n", ns.Name, "-o", "wide")
			t.Log(out)
		}
		if out, err := shared.skep("delete", "namespace", ns.Name, "--timeout=60s"); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	return ns.Name
}

// demo applies the demo in a namespace of its own, its node port replaced, and waits until it is rolled out.
func demo(t *testing.T, nodePort int) (ns string, pods []string, clusterIP string) {
	t.Helper()
	ns = namespace(t)
	manifest, err := os.ReadFile("../demo/echo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	must(t)(shared.pipe(strings.Replace(string(manifest), "30080", fmt.Sprint(nodePort), 1), "apply", "-n", ns, "-f", "-"))
	must(t)(shared.skep("rollout", "status", "deployment/echo", "-n", ns, "--timeout=60s"))
	pods = strings.Fields(must(t)(shared.skep("get", "pods", "-n", ns, "-l", "app=echo", "-o", "jsonpath={.items[*].metadata.name}")))
	return ns, pods, must(t)(shared.skep("get", "service", "echo", "-n", ns, "-o", "jsonpath={.spec.clusterIP}"))
}

// answers calls until each of the pods has answered, at most 100 times, and fails on the first failed call or stranger.
func answers(t *testing.T, pods []string, call func() (string, error)) {
	t.Helper()
	missing := map[string]bool{}
	for _, p := range pods {
		missing[p] = true
	}
	for range 100 {
		out, err := call()
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSpace(out)
		if !strings.Contains(strings.Join(pods, " "), name) || name == "" {
			t.Fatalf("answer %q is of none of %v", name, pods)
		}
		delete(missing, name)
		if len(missing) == 0 {
			return
		}
	}
	t.Errorf("no answer of %v in 100 calls", missing)
}

func TestService(t *testing.T) {
	const nodePort = 30181
	ns, pods, ip := demo(t, nodePort)
	if len(pods) != 3 {
		t.Fatalf("pods %v", pods)
	}
	fromPod := func(url string) func() (string, error) {
		return func() (string, error) {
			return shared.skep("exec", "-n", ns, pods[0], "--", "/skep", "net", "call", url)
		}
	}
	fromNode := func(url string) func() (string, error) {
		return func() (string, error) { return shared.inside("net", "call", url) }
	}
	for name, call := range map[string]func() (string, error){
		"name from a pod":          fromPod("http://echo/"),
		"full name from a pod":     fromPod("http://echo." + ns + ".svc.cluster.local/"),
		"cluster IP from a pod":    fromPod("http://" + ip + "/"),
		"cluster IP over TCP":      fromPod("tcp://" + ip + ":8081"),
		"cluster IP over UDP":      fromPod("udp://" + ip + ":8081"),
		"cluster IP from the node": fromNode("http://" + ip + "/"),
		"node port from a pod":     fromPod(fmt.Sprintf("http://%s:%d/", nodeIP, nodePort)),
		"node port from the node":  fromNode(fmt.Sprintf("http://%s:%d/", nodeIP, nodePort)),
		"node port on loopback":    fromNode(fmt.Sprintf("http://127.0.0.1:%d/", nodePort)),
		"node port from outside": func() (string, error) {
			return shared.outside("net", "call", fmt.Sprintf("http://%s:%d/", nodeIP, nodePort))
		},
		"node port of a second uplink": func() (string, error) {
			return shared.outside("net", "call", fmt.Sprintf("http://%s:%d/", nodeLocal, nodePort))
		},
	} {
		t.Run(name, func(t *testing.T) { answers(t, pods, call) })
	}
}

// TestDualStack gives a Service its second family and reaches it by that, from everywhere.
func TestDualStack(t *testing.T) {
	const nodePort = 30184
	ns, pods, ip := demo(t, nodePort)
	must(t)(shared.skep("patch", "service", "echo", "-n", ns, "-p", `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`))
	ips := strings.Fields(must(t)(shared.skep("get", "service", "echo", "-n", ns, "-o", "jsonpath={.spec.clusterIPs[*]}")))
	if len(ips) != 2 || ips[0] != ip || !strings.HasPrefix(ips[1], "fd00:97::") {
		t.Fatalf("cluster IPs %v, want %s and one of fd00:97::/112", ips, ip)
	}
	podIPs := strings.Fields(must(t)(shared.skep("get", "pod", pods[1], "-n", ns, "-o", "jsonpath={.status.podIPs[*].ip}")))
	if len(podIPs) != 2 || !strings.HasPrefix(podIPs[1], "fd00:245:") {
		t.Fatalf("pod IPs %v, want one of each family", podIPs)
	}
	must(t)(shared.skep("wait", "-n", ns, "--for=jsonpath={.endpoints[2].conditions.ready}=true", "endpointslice", "-l", "kubernetes.io/service-name=echo", "--timeout=30s"))
	fromPod := func(url string) func() (string, error) {
		return func() (string, error) {
			return shared.skep("exec", "-n", ns, pods[0], "--", "/skep", "net", "call", url)
		}
	}
	for name, call := range map[string]func() (string, error){
		"cluster IP from a pod":    fromPod("http://[" + ips[1] + "]/"),
		"cluster IP over UDP":      fromPod("udp://[" + ips[1] + "]:8081"),
		"cluster IP from the node": func() (string, error) { return shared.inside("net", "call", "http://["+ips[1]+"]/") },
		"node port from a pod":     fromPod(fmt.Sprintf("http://[%s]:%d/", nodeIP6, nodePort)),
		"node port on loopback":    func() (string, error) { return shared.inside("net", "call", fmt.Sprintf("http://[::1]:%d/", nodePort)) },
		"node port from outside": func() (string, error) {
			return shared.outside("net", "call", fmt.Sprintf("http://[%s]:%d/", nodeIP6, nodePort))
		},
	} {
		t.Run(name, func(t *testing.T) { answers(t, pods, call) })
	}
	// The first family goes on as before.
	answers(t, pods, fromPod("http://"+ip+"/"))
}

func TestHairpin(t *testing.T) {
	ns, _, ip := demo(t, 30182)
	must(t)(shared.skep("scale", "deployment/echo", "-n", ns, "--replicas=1"))
	must(t)(shared.skep("wait", "-n", ns, "--for=jsonpath={.status.replicas}=1", "deployment/echo", "--timeout=30s"))
	awaitEndpoints(t, ns, 1)
	pod := must(t)(shared.skep("get", "endpointslices", "-n", ns, "-o", "jsonpath={.items[*].endpoints[*].targetRef.name}"))
	for range 5 {
		for _, url := range []string{"http://" + ip + "/", "udp://" + ip + ":8081"} {
			if got := must(t)(shared.skep("exec", "-n", ns, pod, "--", "/skep", "net", "call", url)); got != pod {
				t.Errorf("%s answers %q from inside %s", url, got, pod)
			}
		}
	}
}

// awaitEndpoints waits until the Service echo has n ready endpoints and none that terminates.
func awaitEndpoints(t *testing.T, ns string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		slices, err := shared.client.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=echo"})
		if err != nil {
			t.Fatal(err)
		}
		ready, all := 0, 0
		for _, s := range slices.Items {
			for _, e := range s.Endpoints {
				all++
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					ready++
				}
			}
		}
		if ready == n && all == n {
			return
		}
		w, err := shared.client.DiscoveryV1().EndpointSlices(ns).Watch(ctx, metav1.ListOptions{ResourceVersion: slices.ResourceVersion})
		if err != nil {
			t.Fatalf("%d of %d endpoints: %v", ready, n, err)
		}
		<-w.ResultChan()
		w.Stop()
	}
}

func TestNoEndpointsRefuses(t *testing.T) {
	const nodePort = 30183
	ns, _, ip := demo(t, nodePort)
	must(t)(shared.skep("scale", "deployment/echo", "-n", ns, "--replicas=0"))
	awaitEndpoints(t, ns, 0)
	must(t)(shared.pipe(loadPod("idle", "bench", "idle"), "apply", "-n", ns, "-f", "-"))
	must(t)(shared.skep("wait", "-n", ns, "--for=condition=Ready", "pod/idle", "--timeout=30s"))
	for name, call := range map[string]func() (string, error){
		"pod to cluster IP": func() (string, error) {
			return shared.skep("exec", "-n", ns, "idle", "--", "/skep", "net", "call", "http://"+ip+"/")
		},
		"node to cluster IP": func() (string, error) { return shared.inside("net", "call", "http://"+ip+"/") },
		"node to node port": func() (string, error) {
			return shared.inside("net", "call", fmt.Sprintf("http://%s:%d/", nodeIP, nodePort))
		},
		"outside to node port": func() (string, error) {
			return shared.outside("net", "call", fmt.Sprintf("http://%s:%d/", nodeIP, nodePort))
		},
		"pod to cluster IP, UDP": func() (string, error) {
			return shared.skep("exec", "-n", ns, "idle", "--", "/skep", "net", "call", "udp://"+ip+":8081")
		},
	} {
		began := time.Now()
		out, err := call()
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: not refused: %v %s", name, err, out)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: refused only after %v", name, took)
		}
	}
}

// loadPod is a manifest of a pod that runs this binary.
func loadPod(name string, args ...string) string {
	quoted, err := json.Marshal(args)
	if err != nil {
		panic(err) // strings always marshal
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "skep.dev/skep:self", imagePullPolicy: Never, command: [/skep], args: %s}
`, name, quoted)
}
