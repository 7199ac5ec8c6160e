package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/podnet"
)

// Invoked says whether this process was started as a plugin is: without arguments, with a command in the environment.
func Invoked() bool { return len(os.Args) == 1 && os.Getenv("CNI_COMMAND") != "" }

// Plugin answers the command in the environment and returns the exit code. While no agent runs, DEL is noted beside the agent's
// socket, for the next agent to do, and succeeds: pods can be deleted all the time. All else fails then with the code that tells
// the runtime to try again.
func Plugin() int {
	funcs := skel.CNIFuncs{Add: add, Del: del, Check: check, GC: collect, Status: status}
	if err := skel.PluginMainFuncsWithError(funcs, version.All, "skep's CNI plugin: a container runtime executes it"); err != nil {
		if err := err.Print(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return 1
	}
	return 0
}

// pluginConfig is the plugin's part of the network's configuration.
type pluginConfig struct {
	types.PluginConf
	// Socket is where the agent listens.
	Socket string `json:"socket"`
}

// readConfig reads the configuration, and the result of before where there is one.
func readConfig(args *skel.CmdArgs) (pluginConfig, error) {
	var c pluginConfig
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, "configuration of the network: "+err.Error(), "")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, "result of before: "+err.Error(), "")
	}
	if c.Type != loopback && !filepath.IsAbs(c.Socket) {
		return c, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("socket %q: want the path of the agent's socket", c.Socket), "")
	}
	return c, nil
}

// kubeletArgs are what a runtime passes on of a pod.
type kubeletArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString
	K8S_POD_NAME      types.UnmarshallableString
	K8S_POD_UID       types.UnmarshallableString
}

func readRequest(command string, args *skel.CmdArgs) (request, error) {
	r := request{Command: command, attachmentName: attachmentName{args.ContainerID, args.IfName}}
	if len(args.ContainerID) > maxContainerID {
		return r, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_CONTAINERID: longer than %d bytes", maxContainerID), "")
	}
	k := kubeletArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args.Args, &k); err != nil {
		return r, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+err.Error(), "")
	}
	r.podName = podName{string(k.K8S_POD_NAMESPACE), string(k.K8S_POD_NAME), string(k.K8S_POD_UID)}
	return r, nil
}

// namespace opens the sandbox's network namespace. Open, it can be handed to an agent that does not see its path.
func namespace(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS: "+err.Error(), "")
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS: "+path+" is no namespace", "")
	}
	return f, nil
}

// call asks the agent and turns whatever goes wrong into an error of the specification.
func call(c pluginConfig, r request, ns *os.File) (reply, error) {
	answer, err := ask(c.Socket, r, ns)
	switch {
	case errors.Is(err, errNoAgent) && r.Command == commandStatus:
		return answer, types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	case errors.Is(err, errNoAgent):
		return answer, types.NewError(types.ErrTryAgainLater, err.Error(), "")
	case err != nil:
		return answer, types.NewError(types.ErrIOFailure, err.Error(), "")
	case answer.Error != nil:
		return answer, answer.Error
	}
	return answer, nil
}

func add(args *skel.CmdArgs) error {
	c, err := readConfig(args)
	if err != nil {
		return err
	}
	ns, err := namespace(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if c.Type == loopback {
		return addLoopback(c, args, ns)
	}
	if c.PrevResult != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "skep makes the pod's device: it must be the first plugin of its list", "")
	}
	r, err := readRequest(commandAdd, args)
	if err != nil {
		return err
	}
	answer, err := call(c, r, ns)
	if err != nil {
		return err
	}
	return printResult(c, result(answer.Attachment, args))
}

// result is an attachment in the words of the specification.
func result(a *attachment, args *skel.CmdArgs) *types100.Result {
	const host, pod = 0, 1 // indexes into Interfaces
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			host: {Name: a.HostDevice, Mac: a.HostMAC, Mtu: a.MTU},
			pod:  {Name: args.IfName, Mac: a.PodMAC, Mtu: a.MTU, Sandbox: args.Netns},
		},
	}
	for i, ip := range a.IPs {
		router := net.IP(a.Routers[i].AsSlice())
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: types100.Int(pod), Address: ipNet(netip.PrefixFrom(ip, ip.BitLen())), Gateway: router})
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(netip.PrefixFrom(ip, 0).Masked()), GW: router})
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// printResult prints what ADD returns, in the version of the configuration.
func printResult(c pluginConfig, r *types100.Result) error {
	v := c.CNIVersion
	if v == "" {
		v = "0.1.0" // the version before there were any
	}
	return types.PrintResult(r, v)
}

// del never needs the namespace, which may be gone. It is noted before the agent is asked a second time: an agent that came in
// between has read the notes after it began to listen, so one of the two ways reaches it.
func del(args *skel.CmdArgs) error {
	c, err := readConfig(args)
	if err != nil {
		return err
	}
	if c.Type == loopback {
		return nil
	}
	r, err := readRequest(commandDel, args)
	if err != nil {
		return err
	}
	_, err = call(c, r, nil)
	if !later(err) {
		return err
	}
	pending := deletionsBeside(c.Socket)
	if err := pending.note(r.id()); err != nil {
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	if _, err = call(c, r, nil); later(err) {
		return nil // the next agent does it
	}
	return errors.Join(err, pending.forget(r.id()))
}

// later says that there was no agent to do it, or that it could not just then.
func later(err error) bool {
	var e *types.Error
	return errors.As(err, &e) && e.Code == types.ErrTryAgainLater
}

func check(args *skel.CmdArgs) error {
	c, err := readConfig(args)
	if err != nil || c.Type == loopback {
		return err
	}
	ns, err := namespace(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if c.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK without the result of ADD", "")
	}
	before, err := types100.GetResult(c.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "result of ADD: "+err.Error(), "")
	}
	r, err := readRequest(commandCheck, args)
	if err != nil {
		return err
	}
	answer, err := call(c, r, ns)
	if err != nil {
		return err
	}
	for _, ip := range answer.Attachment.IPs {
		if !slices.ContainsFunc(before.IPs, func(b *types100.IPConfig) bool { return b.Address.IP.Equal(ip.AsSlice()) }) {
			return types.NewError(types.ErrInternal, fmt.Sprintf("the pod has %s, of which ADD did not tell", ip), "")
		}
	}
	return nil
}

// collect removes all attachments but those that the runtime names.
func collect(args *skel.CmdArgs) error {
	c, err := readConfig(args)
	if err != nil || c.Type == loopback {
		return err
	}
	r := request{Command: commandGC}
	for _, v := range c.ValidAttachments {
		r.Valid = append(r.Valid, attachmentName{v.ContainerID, v.IfName})
	}
	_, err = call(c, r, nil)
	return err
}

func status(args *skel.CmdArgs) error {
	c, err := readConfig(args)
	if err != nil || c.Type == loopback {
		return err
	}
	_, err = call(c, request{Command: commandStatus}, nil)
	return err
}

// loopback is the plugin that runtimes ask for a sandbox's lo. This binary stands in where a node has none.
const loopback = "loopback"

func addLoopback(c pluginConfig, args *skel.CmdArgs, ns *os.File) error {
	if err := podnet.RaiseLoopback(ns); err != nil {
		return err
	}
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{{Name: args.IfName, Sandbox: args.Netns}}}
	for _, p := range []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")} {
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: ipNet(p)})
	}
	return printResult(c, r)
}
