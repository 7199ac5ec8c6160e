// Package cni is the network of a node's pods for container runtimes that ask for it by the Container Network Interface. The
// plugin, which the runtime executes, is a thin client: it hands the request and the open network namespace to the node's agent
// over a Unix socket, and only the agent changes anything. What the plugin is told survives the agent's death: see [Plugin].
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// NetworkName is the name of the network in the runtime's configuration, and the type of its plugin.
const NetworkName = "skep"

// The commands of the specification that reach the agent.
const (
	commandAdd    = "ADD"
	commandDel    = "DEL"
	commandCheck  = "CHECK"
	commandGC     = "GC"
	commandStatus = "STATUS"
)

// A request goes to the agent as one JSON object, with the network namespace's file beside it where there is one.
type request struct {
	Command string `json:"command"`
	attachmentName
	podName
	// Valid are the attachments that GC leaves.
	Valid []attachmentName `json:"valid,omitempty"`
}

// attachmentName names one device of one sandbox.
type attachmentName struct {
	ContainerID string `json:"containerID,omitempty"`
	IfName      string `json:"ifname,omitempty"`
}

// maxContainerID leaves room in what the datapath notes of an attachment, in bytes; runtimes use 64.
const maxContainerID = 128

// id names the attachment to the datapath. A container's id has no plus sign.
func (a attachmentName) id() string { return a.ContainerID + "+" + a.IfName }

// podName is whose sandbox it is, as kubelets have it told.
type podName struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

func (p podName) String() string { return p.Namespace + "/" + p.Name }

// reply is the agent's answer.
type reply struct {
	Error      *types.Error `json:"error,omitempty"`
	Attachment *attachment  `json:"attachment,omitempty"`
}

// attachment is what ADD and CHECK return.
type attachment struct {
	IPs []netip.Addr `json:"ips"`
	// Routers are the next hops, one for each of IPs.
	Routers    []netip.Addr `json:"routers"`
	MTU        int          `json:"mtu"`
	HostDevice string       `json:"hostDevice"`
	HostMAC    string       `json:"hostMAC"`
	PodMAC     string       `json:"podMAC"`
}

const (
	// maxMessage bounds what either side reads, in bytes: a GC with the attachments of some thousand pods.
	maxMessage = 4 << 20
	// dialTimeout is how long a socket may take on which an agent listens.
	dialTimeout = 5 * time.Second
	// replyTimeout is longer than the agent takes for anything.
	replyTimeout = 2 * time.Minute
)

// errNoAgent is returned when no agent listens.
var errNoAgent = errors.New("no agent answers")

// ask sends a request with the file of a network namespace, nil for none, and returns the answer.
func ask(socket string, r request, ns *os.File) (reply, error) {
	conn, err := net.DialTimeout("unix", socket, dialTimeout)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", errNoAgent, err)
	}
	defer conn.Close()
	c := conn.(*net.UnixConn)
	if err := c.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return reply{}, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return reply{}, err
	}
	var rights []byte
	if ns != nil {
		rights = unix.UnixRights(int(ns.Fd()))
	}
	n, _, err := c.WriteMsgUnix(data, rights, nil)
	if err == nil && n < len(data) {
		_, err = c.Write(data[n:])
	}
	if err == nil {
		err = c.CloseWrite()
	}
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", errNoAgent, err)
	}
	var answer reply
	if err := json.NewDecoder(io.LimitReader(c, maxMessage)).Decode(&answer); err != nil {
		return reply{}, fmt.Errorf("%w: its answer: %w", errNoAgent, err)
	}
	return answer, nil
}

// receive reads a request and the file that came with it, which the caller closes.
func receive(c *net.UnixConn) (r request, ns *os.File, err error) {
	data, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, size, _, _, err := c.ReadMsgUnix(data, control)
	if err != nil {
		return r, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:size])
	if err != nil {
		return r, nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return r, nil, err
		}
		for _, fd := range fds {
			ns = os.NewFile(uintptr(fd), "network namespace of the runtime")
		}
	}
	rest, err := io.ReadAll(io.LimitReader(c, maxMessage))
	if err == nil {
		err = json.Unmarshal(append(data[:n], rest...), &r)
	}
	if err != nil && ns != nil {
		err = errors.Join(err, ns.Close())
	}
	return r, ns, err
}
