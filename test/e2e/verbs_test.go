package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// TestVerbs walks through the verbs that a user of kubectl knows.
func TestVerbs(t *testing.T) {
	ns, pods, _ := demo(t, 30186)
	run := func(args ...string) string {
		t.Helper()
		return must(t)(shared.skep(append(args, "-n", ns)...))
	}
	shows := func(out, want string) {
		t.Helper()
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	shows(run("get", "pods", "-o", "wide"), "NOMINATED NODE")
	shows(run("describe", "pod", pods[0]), "Started")
	shows(run("describe", "service", "echo"), "Endpoints:")
	shows(run("explain", "deployment.spec.strategy"), "rollingUpdate")
	shows(run("get", "deployment", "echo", "-o", "yaml"), "replicas: 3")
	shows(run("get", "all"), "replicaset.apps/echo")
	shows(run("api-resources"), "deployments")
	shows(run("auth", "can-i", "create", "pods"), "yes")
	shows(run("events"), "Scheduled")
	if out := must(t)(shared.skep("exec", "-n", ns, pods[1], "--", "/skep", "dns", "lookup", "kubernetes.default")); !strings.Contains(out, "10.97.0.1") {
		t.Errorf("exec: %s", out)
	}

	run("scale", "deployment/echo", "--replicas=5")
	run("rollout", "status", "deployment/echo", "--timeout=60s")
	run("set", "env", "deployment/echo", "COLOR=blue")
	run("rollout", "status", "deployment/echo", "--timeout=60s")
	shows(run("rollout", "history", "deployment/echo"), "2")
	run("rollout", "undo", "deployment/echo")
	run("rollout", "status", "deployment/echo", "--timeout=60s")
	if env := run("get", "deployment", "echo", "-o", "jsonpath={.spec.template.spec.containers[0].env}"); env != "" {
		t.Errorf("the environment is still %s", env)
	}
	run("rollout", "restart", "deployment/echo")
	run("wait", "--for=condition=Available", "deployment/echo", "--timeout=60s")
	run("label", "deployment", "echo", "tier=front")
	run("annotate", "deployment", "echo", "note=hello")
	run("patch", "deployment", "echo", "--type=merge", "-p", `{"spec":{"replicas":1}}`)
	run("rollout", "status", "deployment/echo", "--timeout=60s")
	run("delete", "deployment", "echo", "--timeout=60s")
	run("wait", "--for=delete", "pod", "-l", "app=echo", "--timeout=60s")
}

// TestLogs follows a pod's log from its beginning to its end.
func TestLogs(t *testing.T) {
	ns := namespace(t)
	must(t)(shared.pipe(strings.Replace(loadPod("look", "dns", "lookup", "kubernetes.default"), "spec:", "spec:\n  restartPolicy: Never", 1), "apply", "-n", ns, "-f", "-"))
	must(t)(shared.skep("wait", "-n", ns, "--for=jsonpath={.status.phase}=Succeeded", "pod/look", "--timeout=30s"))
	if out := must(t)(shared.skep("logs", "-n", ns, "-f", "look")); !strings.Contains(out, "10.97.0.1") {
		t.Errorf("log: %s", out)
	}
}

// TestOldKubectl drives the node with Debian's kubectl.
func TestOldKubectl(t *testing.T) {
	old := debianKubectl(t)
	ns, pods, _ := demo(t, 30187)
	kubectl := func(args ...string) string {
		t.Helper()
		args = append([]string{"--net=/run/netns/" + shared.name, old, "--kubeconfig", shared.kubeconfig(), "-n", ns}, args...)
		out, err := exec.Command("nsenter", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if v := kubectl("version", "--client", "--short"); !strings.Contains(v, "v1.20") {
		t.Fatalf("%s is kubectl %s", old, v)
	}
	if out := kubectl("get", "pods"); !strings.Contains(out, pods[0]) || !strings.Contains(out, "Running") {
		t.Error(out)
	}
	if out := kubectl("exec", pods[0], "--", "/skep", "net", "call", "http://echo/"); !strings.Contains(out, "echo-") {
		t.Error(out)
	}
	kubectl("scale", "deployment/echo", "--replicas=2")
	kubectl("rollout", "status", "deployment/echo")
	if out := kubectl("describe", "deployment", "echo"); !strings.Contains(out, "2 desired") {
		t.Error(out)
	}
	kubectl("apply", "-f", "../demo/echo.yaml", "--dry-run=server")
	if out := kubectl("explain", "pod.spec"); !strings.Contains(out, "containers") {
		t.Error(out)
	}
	kubectl("delete", "deployment", "echo")
}

// debianKubectl unpacks the package kubernetes-client, which cannot be installed beside another kubectl.
func debianKubectl(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("bash", "-ec", "apt-get download -qq kubernetes-client || { apt-get update -qq && apt-get download -qq kubernetes-client; }; dpkg -x kubernetes-client_*.deb .")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpack kubernetes-client: %v\n%s", err, out)
	}
	return dir + "/usr/bin/kubectl"
}

// TestBadInput gives what users get wrong; each error names the object and the field, and nothing is made.
func TestBadInput(t *testing.T) {
	ns := namespace(t)
	for name, c := range map[string]struct{ manifest, want string }{
		"unknown field": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndatum: {a: b}\n", `unknown field "datum"`},
		"bad name":      {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name}\n", `metadata.name: Invalid value: "Not_A_Name"`},
		"no containers": {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n", "spec.containers: Required value"},
		"two faults": {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  restartPolicy: Sometimes\n  containers: [{name: C, image: x}]\n",
			`spec.containers[0].name: Invalid value: "C"`},
		"wrong type":      {"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: eighty}]}\n", "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32"},
		"port range":      {"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}\n", "spec.ports[0].nodePort: Invalid value: 80"},
		"foreign address": {"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 1.2.3.4, ports: [{port: 80}]}\n", "spec.clusterIPs"},
		"selector mismatch": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: c}}\n    spec: {containers: [{name: c, image: x}]}\n",
			"`selector` does not match template `labels`"},
	} {
		out, err := shared.pipe(c.manifest, "create", "-n", ns, "-f", "-")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	if out := must(t)(shared.skep("get", "pods,services,deployments", "-n", ns, "-o", "name")); out != "" {
		t.Errorf("left behind: %s", out)
	}
	taken := "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30199}]}\n"
	must(t)(shared.pipe(strings.Replace(taken, "%s", "first", 1), "create", "-n", ns, "-f", "-"))
	if _, err := shared.pipe(strings.Replace(taken, "%s", "second", 1), "create", "-n", ns, "-f", "-"); err == nil || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a taken node port: %v", err)
	}
}

// TestBadPods lets pods fail in the ways that users meet, and looks for the reason in their status.
func TestBadPods(t *testing.T) {
	ns := namespace(t)
	for name, c := range map[string]struct{ container, want string }{
		"no-image":      {`{name: c, image: "skep.dev/none:none", imagePullPolicy: Never}`, "ErrImageNeverPull"},
		"bad-image":     {`{name: c, image: "Not A Reference"}`, "InvalidImageName"},
		"no-registry":   {`{name: c, image: "127.0.0.1:9/none:none"}`, "ErrImagePull ImagePullBackOff"},
		"no-command":    {`{name: c, image: "skep.dev/skep:self", imagePullPolicy: Never, command: [/none]}`, "StartError RunContainerError CrashLoopBackOff"},
		"no-config-map": {`{name: c, image: "skep.dev/skep:self", imagePullPolicy: Never, envFrom: [{configMapRef: {name: none}}]}`, "CreateContainerConfigError"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must(t)(shared.pipe("apiVersion: v1\nkind: Pod\nmetadata: {name: "+name+"}\nspec: {containers: ["+c.container+"]}\n", "create", "-n", ns, "-f", "-"))
			reasons := "{.status.containerStatuses[0].state.waiting.reason} {.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].lastState.terminated.reason}"
			for range 100 {
				got := must(t)(shared.skep("get", "pod", name, "-n", ns, "-o", "jsonpath="+reasons))
				for _, want := range strings.Fields(c.want) {
					if strings.Contains(got, want) {
						return
					}
				}
			}
			t.Errorf("pod %s: %s", name, must(t)(shared.skep("get", "pod", name, "-n", ns, "-o", "jsonpath={.status}")))
		})
	}
}
