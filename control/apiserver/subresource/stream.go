package subresource

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	translate "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Stream is one of pods/exec, pods/attach and pods/portforward: the connection of the client is joined to one of the pod's
// node. It is safe for concurrent use.
type Stream struct {
	nodes      *Nodes
	authorizer authorizer.UnconditionalAuthorizer
	options    func() runtime.Object
	// route tells where on the node a request goes.
	route func(pod *corev1.Pod, options runtime.Object) (route, error)
}

// route is where a stream leads on a node.
type route struct {
	path  string
	query url.Values
	// command is set for exec and attach: their WebSocket has a channel for each of these, while a port forward is a tunnel.
	command *translate.Options
}

// NewExec makes pods/exec.
func NewExec(nodes *Nodes, a authorizer.UnconditionalAuthorizer) *Stream {
	return &Stream{nodes, a, func() runtime.Object { return &corev1.PodExecOptions{} }, func(pod *corev1.Pod, options runtime.Object) (route, error) {
		o, ok := options.(*corev1.PodExecOptions)
		if !ok {
			return route{}, fmt.Errorf("invalid options object: %T", options)
		}
		r, err := commandRoute(pod, "exec", o.Container, translate.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
		if err == nil {
			r.query["command"] = o.Command
		}
		return r, err
	}}
}

// NewAttach makes pods/attach.
func NewAttach(nodes *Nodes, a authorizer.UnconditionalAuthorizer) *Stream {
	return &Stream{nodes, a, func() runtime.Object { return &corev1.PodAttachOptions{} }, func(pod *corev1.Pod, options runtime.Object) (route, error) {
		o, ok := options.(*corev1.PodAttachOptions)
		if !ok {
			return route{}, fmt.Errorf("invalid options object: %T", options)
		}
		return commandRoute(pod, "attach", o.Container, translate.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
	}}
}

// NewPortForward makes pods/portforward.
func NewPortForward(nodes *Nodes, a authorizer.UnconditionalAuthorizer) *Stream {
	return &Stream{nodes, a, func() runtime.Object { return &corev1.PodPortForwardOptions{} }, func(pod *corev1.Pod, options runtime.Object) (route, error) {
		o, ok := options.(*corev1.PodPortForwardOptions)
		if !ok {
			return route{}, fmt.Errorf("invalid options object: %T", options)
		}
		r := route{path: fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), query: url.Values{}}
		if len(o.Ports) > 0 {
			ports := make([]string, len(o.Ports))
			for i, port := range o.Ports {
				ports[i] = strconv.Itoa(int(port))
			}
			r.query.Set(corev1.PortHeader, strings.Join(ports, ","))
		}
		return r, nil
	}}
}

func commandRoute(pod *corev1.Pod, verb, container string, o translate.Options) (route, error) {
	container, err := containerOf(pod, container)
	if err != nil {
		return route{}, err
	}
	query := url.Values{}
	for name, set := range map[string]bool{corev1.ExecStdinParam: o.Stdin, corev1.ExecStdoutParam: o.Stdout, corev1.ExecStderrParam: o.Stderr, corev1.ExecTTYParam: o.Tty} {
		if set {
			query.Set(name, "1")
		}
	}
	return route{path: fmt.Sprintf("/%s/%s/%s/%s", verb, pod.Namespace, pod.Name, container), query: query, command: &o}, nil
}

// New implements rest.Storage.
func (s *Stream) New() runtime.Object { return s.options() }

// Destroy implements rest.Storage.
func (s *Stream) Destroy() {}

// NewConnectOptions implements rest.Connecter.
func (s *Stream) NewConnectOptions() (runtime.Object, bool, string) { return s.options(), false, "" }

// ConnectMethods implements rest.Connecter: WebSocket begins with GET, SPDY with POST.
func (s *Stream) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

// Connect implements rest.Connecter. What the node speaks too is passed through; the WebSocket protocols that only clients
// speak are translated to SPDY.
func (s *Stream) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := mayCreate(ctx, s.authorizer); err != nil {
		return nil, err
	}
	pod, err := s.nodes.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	to, err := s.route(pod, options)
	if err != nil {
		return nil, err
	}
	location, err := s.nodes.location(ctx, pod, to.path, to.query)
	if err != nil {
		return nil, err
	}
	through := proxy.NewUpgradeAwareHandler(location, s.nodes.transport, false, true, proxy.NewErrorResponder(responder))
	if to.command == nil {
		return translate.NewTranslatingHandler(through, translate.NewTunnelingHandler(through), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
	}
	translator := translate.NewStreamTranslatorHandler(location, s.nodes.transport, 0, *to.command)
	return translate.NewTranslatingHandler(through, translator, wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
}
