package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// inventory counts what the nodes hold together, since pods may be on other nodes than before: rows of maps, links, network
// namespaces, mounts, cgroups.
type inventory map[string]int

func (c *turmoil) inventory() inventory {
	c.t.Helper()
	inv := inventory{}
	for node := 1; node <= 3; node++ {
		rows, err := c.rows(node)
		if err != nil {
			c.t.Fatal(err)
		}
		for name, n := range rows {
			inv["rows of "+name] += n
		}
		ns := "/run/netns/" + c.name
		if node > 1 {
			ns = fmt.Sprintf("%s/run/nodes/node-%d/host.netns", c.dir, node)
		}
		out, err := exec.Command("nsenter", "--net="+ns, "ip", "-o", "link").CombinedOutput()
		if err != nil {
			c.t.Fatalf("%v: %s", err, out)
		}
		inv["links"] += strings.Count(string(out), "\n")
	}
	inv["network namespaces"] = c.mounts("nsfs")
	inv["overlay mounts"] = c.mounts("overlay")
	inv["cgroups"] = c.cgroups()
	return inv
}

func (c *turmoil) maps(node int) (*bpfmap.Maps, error) {
	dir := "/sys/fs/bpf/" + c.name
	if node > 1 {
		dir = fmt.Sprintf("%s/nodes/node-%d", dir, node)
	}
	return bpfmap.Open(filepath.Join(dir, "maps"))
}

// rows counts the rows of a node's maps that do not depend on traffic alone.
func (c *turmoil) rows(node int) (map[string]int, error) {
	m, err := c.maps(node)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	rows, err := m.Rows()
	if err != nil {
		return nil, err
	}
	services, err := m.Services()
	if err != nil {
		return nil, err
	}
	rows["service"] = len(services.Services)
	rows["peer"] = 0
	err = m.EachPeer(func(bpfmap.Peer) bool { rows["peer"]++; return true })
	return rows, err
}

// podNetwork is where the pods of the machine are.
var podNetwork = netip.MustParsePrefix("10.246.0.0/16")

// stray lists the TCP flows of pods that are gone, and counts all flows.
func (c *turmoil) stray(node int) (strays []string, flows int, err error) {
	m, err := c.maps(node)
	if err != nil {
		return nil, 0, err
	}
	defer m.Close()
	known, err := m.Identities()
	if err != nil {
		return nil, 0, err
	}
	err = m.Flows(func(f bpfmap.Flow) bool {
		flows++
		if desired.Protocol(f.Key.Proto) != desired.TCP {
			return true // over after three minutes
		}
		from, to := f.Ends()
		for _, end := range []netip.Addr{from.Addr(), to.Addr()} {
			if _, ok := known[end]; !ok && podNetwork.Contains(end) && end.As4()[3] != 1 { // .1 is the node's
				strays = append(strays, fmt.Sprintf("%v -> %v flags %#x", from, to, f.Value.Flags))
			}
		}
		return true
	})
	return strays, flows, err
}

// mounts counts the mounts of a type below the machine's directory.
func (c *turmoil) mounts(kind string) (n int) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, " - "+kind+" ") && strings.Contains(line, c.dir) {
			n++
		}
	}
	return n
}

func (c *turmoil) cgroups() (n int) {
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		dir := filepath.Join(root, c.name)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error { // what vanishes meanwhile is not counted
			if err == nil && d.IsDir() {
				n++
			}
			return nil
		})
		return n
	}
	return n
}

// memory is the resident memory of the nodes' processes in MiB.
func (c *turmoil) memory() (list []string) {
	for node := 1; node <= 3; node++ {
		pid, err := c.pidOf(node)
		if err != nil {
			return nil
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return nil
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
				kib, _ := strconv.Atoi(strings.Fields(rest)[0])
				list = append(list, fmt.Sprintf("node-%d %d MiB", node, kib>>10))
			}
		}
	}
	return list
}

// lateFlows is how long a flow may stay that a late packet began, with the pause between two sweeps.
const lateFlows = 80 * time.Second

// noLeaks waits until the nodes hold what they held before, and no flow of a pod that is gone.
func (c *turmoil) noLeaks(before inventory) {
	var differs []string
	for deadline := time.Now().Add(lateFlows); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		differs = nil
		now := c.inventory()
		for _, what := range slices.Sorted(maps.Keys(before)) {
			if now[what] != before[what] {
				differs = append(differs, fmt.Sprintf("%s: %d, before %d", what, now[what], before[what]))
			}
		}
		for node := 1; node <= 3; node++ {
			strays, flows, err := c.stray(node)
			if err != nil {
				c.t.Fatal(err)
			}
			if len(strays) > 0 {
				differs = append(differs, fmt.Sprintf("node-%d: %d of %d flows are of pods that are gone: %s", node, len(strays), flows, strings.Join(strays[:min(len(strays), 5)], ", ")))
			}
		}
		if len(differs) == 0 {
			break
		}
	}
	c.t.Logf("memory at the end: %v", c.memory())
	if len(differs) > 0 {
		c.t.Errorf("left over:\n%s", strings.Join(differs, "\n"))
	}
}
