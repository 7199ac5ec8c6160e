package foreign

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// whileKilled checks what holds while no agent runs, and what the next one makes of it.
func (n *foreignNode) whileKilled(t *testing.T, web, client sandbox, clusterIP string) {
	must := must(t)
	ended := n.start(t, podNamed("ended", 0))
	n.killAgent(t)
	must(client.call("http://" + clusterIP + "/"))
	// What ends is noted; what starts is to be tried again.
	n.removeSandbox(t, ended.id)
	if _, err := os.Stat(ended.netns()); err != nil {
		t.Errorf("somebody else than the agent removed a network: %v", err)
	}
	late, err := n.client.CoreV1().Pods("default").Create(t.Context(), podNamed("late", 0), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.runSandbox(t.Context(), late); err == nil || !strings.Contains(err.Error(), "no agent answers") {
		t.Errorf("a sandbox without an agent: %v", err)
	}

	n.startAgent(t)
	missing(t, ended.netns())
	must(client.call("http://" + clusterIP + "/"))
	id, ips, err := n.runSandbox(t.Context(), late)
	if err != nil {
		t.Fatal(err)
	}
	defer n.removeSandbox(t, id)
	if slices.Contains([]string{web.ip, client.ip}, ips[0]) {
		t.Errorf("%s is given out twice", ips[0])
	}
	must(client.call("http://"+ips[0]+":8080/", "--wait", "10s"))
}

// plugin runs the installed plugin as a runtime does, and returns its output and whether it succeeded.
func (n *foreignNode) plugin(t *testing.T, command, config string, env ...string) (string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--net=/run/netns/"+n.name, n.dir+"/cni-bin/skep")
	cmd.Env = append([]string{"CNI_COMMAND=" + command, "CNI_PATH=" + n.dir + "/cni-bin"}, env...)
	cmd.Stdin = strings.NewReader(config)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	return string(out), err == nil
}

// commands runs those that a runtime may use beside ADD and DEL.
func (n *foreignNode) commands(t *testing.T, web, client sandbox) {
	const config = `{"cniVersion": "1.1.0", "name": "skep", "type": "skep", "socket": "%SOCKET", "prevResult": {"cniVersion": "1.1.0", "ips": [%IPS]},
		"cni.dev/valid-attachments": [%VALID]}`
	fill := func(of sandbox, valid string) string {
		ips := `{"address": "` + of.ip + `/32"}, {"address": "` + of.ip6 + `/128"}`
		return strings.NewReplacer("%SOCKET", n.dir+"/run/cni.sock", "%IPS", ips, "%VALID", valid).Replace(config)
	}
	container := func(s, result sandbox) (string, bool) {
		return n.plugin(t, "CHECK", fill(result, ""), "CNI_CONTAINERID="+s.id, "CNI_IFNAME=eth0", "CNI_NETNS="+s.netns())
	}
	if out, ok := container(web, web); !ok {
		t.Errorf("CHECK: %s", out)
	}
	if out, ok := container(web, client); ok || !strings.Contains(out, `"code": 999`) {
		t.Errorf("CHECK with the address of another: %s", out)
	}
	if out, ok := n.plugin(t, "STATUS", fill(web, "")); !ok {
		t.Errorf("STATUS: %s", out)
	}

	// GC leaves the sandboxes that the runtime names, and takes the one that it has forgotten.
	forgotten := n.start(t, podNamed("forgotten", 0))
	keep := []string{}
	list, err := os.ReadDir(n.dir + "/run/netns")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if id, device, _ := strings.Cut(e.Name(), "+"); id != forgotten.id {
			keep = append(keep, `{"containerID": "`+id+`", "ifname": "`+device+`"}`)
		}
	}
	if out, ok := n.plugin(t, "GC", fill(web, strings.Join(keep, ","))); !ok {
		t.Errorf("GC: %s", out)
	}
	missing(t, forgotten.netns())
	if out, ok := container(web, web); !ok {
		t.Errorf("CHECK after GC: %s", out)
	}
}
