package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/datapath/ipam"
	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/datapath/translate"
)

// Network gives pods their network. All methods are idempotent.
type Network interface {
	Attach(ctx context.Context, p podnet.Pod) (podnet.Attachment, error)
	Check(ctx context.Context, p podnet.Pod) (podnet.Attachment, error)
	Detach(ctx context.Context, id string) error
	Retain(ctx context.Context, ids []string) error
}

// Config is what a Server needs. All fields are required but Patience and Metrics.
type Config struct {
	// Socket is where to listen, in a directory that is root's alone.
	Socket  string
	Network Network
	Pods    *Pods
	// Patience is how long ADD waits to hear of its pod from the API; 0 means DefaultPatience.
	Patience time.Duration
	// Metrics gets the collectors; nil means none.
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

const (
	// DefaultPatience is longer than an API server takes to tell of a pod that a kubelet has heard of.
	DefaultPatience = 20 * time.Second
	// workTimeout bounds one request; below replyTimeout.
	workTimeout = time.Minute
)

// Server answers plugins. It is safe for concurrent use.
type Server struct {
	cfg      Config
	pending  deletions
	listener *net.UnixListener
	// collecting is held for reading by ADD and for writing by GC, which must not see half an attachment.
	collecting sync.RWMutex
	// took is how long requests took, by command and by the code of the error, 0 for none.
	took *prometheus.HistogramVec
}

// NewServer returns a Server that does not listen yet.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Patience == 0 {
		cfg.Patience = DefaultPatience
	}
	s := &Server{cfg: cfg, pending: deletionsBeside(cfg.Socket), took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "skep_cni_request_duration_seconds", Help: "Time to answer the CNI plugin, by command and error code, 0 for success.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
	}, []string{"command", "code"})}
	if cfg.Metrics != nil {
		return s, cfg.Metrics.Register(s.took)
	}
	return s, nil
}

// Listen begins to listen and then does what was noted while no agent did.
func (s *Server) Listen(ctx context.Context) error {
	if err := os.Remove(s.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("socket of the CNI plugin: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.cfg.Socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("socket of the CNI plugin: %w", err)
	}
	s.listener = l
	if err := os.Chmod(s.cfg.Socket, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	ids, err := s.pending.list()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	for _, id := range ids {
		if err := s.cfg.Network.Detach(ctx, id); err != nil {
			s.cfg.Logger.Warn("a sandbox that is gone keeps its network until the next start", "sandbox", id, "error", err)
			continue
		}
		if err := s.pending.forget(id); err != nil {
			s.cfg.Logger.Warn("a deletion is noted for ever", "sandbox", id, "error", err)
		}
	}
	return nil
}

// Run answers until ctx ends, and returns when the last answer is given.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	var work sync.WaitGroup
	defer work.Wait()
	for {
		c, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("socket of the CNI plugin: %w", err)
		}
		work.Go(func() {
			defer c.Close()
			s.serve(ctx, c)
		})
	}
}

// readTimeout is how long a plugin may take to say what it wants, which it does at once.
const readTimeout = 10 * time.Second

func (s *Server) serve(ctx context.Context, c *net.UnixConn) {
	_ = c.SetReadDeadline(time.Now().Add(readTimeout))
	r, ns, err := receive(c)
	if err != nil {
		s.cfg.Logger.Warn("a CNI plugin's request", "error", err)
		return
	}
	if ns != nil {
		defer ns.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	start := time.Now()
	a, err := s.do(ctx, r, ns)
	answer := reply{Attachment: a, Error: specified(err)}
	s.measure(r.Command, answer.Error, time.Since(start))
	if err != nil {
		s.cfg.Logger.Warn("CNI", "command", r.Command, "pod", r.podName.String(), "sandbox", r.ContainerID, "error", err)
	} else {
		s.cfg.Logger.Info("CNI", "command", r.Command, "pod", r.podName.String(), "sandbox", r.ContainerID, "took", time.Since(start))
	}
	_ = c.SetWriteDeadline(time.Now().Add(readTimeout))
	if err := json.NewEncoder(c).Encode(answer); err != nil {
		// The runtime ends what it gave up: with DEL, or with another ADD.
		s.cfg.Logger.Warn("a CNI plugin did not wait for its answer", "command", r.Command, "sandbox", r.ContainerID, "error", err)
	}
}

func (s *Server) measure(command string, failure *types.Error, took time.Duration) {
	code := uint(0)
	if failure != nil {
		code = failure.Code
	}
	if !slices.Contains([]string{commandAdd, commandDel, commandCheck, commandGC, commandStatus}, command) {
		command = "other"
	}
	s.took.WithLabelValues(command, strconv.FormatUint(uint64(code), 10)).Observe(took.Seconds())
}

// specified is an error as the specification has it.
func specified(err error) *types.Error {
	var e *types.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, podnet.ErrNotAttached):
		return types.NewError(types.ErrUnknownContainer, err.Error(), "")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, ipam.ErrExhausted), errors.Is(err, errUnknownPod):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}

func (s *Server) do(ctx context.Context, r request, ns *os.File) (*attachment, error) {
	switch r.Command {
	case commandAdd:
		return s.add(ctx, r, ns)
	case commandDel:
		if err := r.validate(); err != nil {
			return nil, err
		}
		return nil, s.cfg.Network.Detach(ctx, r.id())
	case commandCheck:
		if err := r.validate(); err != nil {
			return nil, err
		}
		a, err := s.cfg.Network.Check(ctx, podnet.Pod{UID: r.UID, Namespace: r.Namespace, Name: r.Name, Sandbox: r.id(), NetNS: ns, Device: r.IfName})
		return told(a), err
	case commandGC:
		return nil, s.collect(ctx, r.Valid)
	case commandStatus:
		return nil, nil // whoever answers is ready
	}
	return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("command %q", r.Command), "")
}

// validate refuses names that are no names of files and devices.
func (a attachmentName) validate() error {
	if a.ContainerID == "" || a.IfName == "" || len(a.ContainerID) > maxContainerID || strings.ContainsAny(a.id(), "/ ") || a.ContainerID[0] == '.' {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("container %q, device %q: no names", a.ContainerID, a.IfName), "")
	}
	return nil
}

// add attaches a sandbox. The pod's policies are in force when it returns: who the pod is comes from the API, for which it waits.
func (s *Server) add(ctx context.Context, r request, ns *os.File) (*attachment, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	if ns == nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "no network namespace", "")
	}
	if r.Namespace == "" || r.Name == "" {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables,
			"CNI_ARGS: no K8S_POD_NAMESPACE and K8S_POD_NAME: this network is for pods, whose policies it must know", "")
	}
	s.collecting.RLock()
	defer s.collecting.RUnlock()
	wait, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	pod, err := s.cfg.Pods.Await(wait, r.podName)
	if err != nil {
		return nil, err
	}
	// Its name may have been another's that was to be removed.
	if err := s.pending.forget(r.id()); err != nil {
		return nil, err
	}
	a, err := s.cfg.Network.Attach(ctx, podnet.Pod{
		UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Identity: translate.Identity(pod),
		Sandbox: r.id(), NetNS: ns, Device: r.IfName,
	})
	return told(a), err
}

// told is what the plugin needs of an attachment.
func told(a podnet.Attachment) *attachment {
	return &attachment{IPs: a.IPs, Routers: a.Routers, MTU: a.MTU, HostDevice: a.HostDevice, HostMAC: a.HostMAC.String(), PodMAC: a.PodMAC.String()}
}

func (s *Server) collect(ctx context.Context, valid []attachmentName) error {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	var ids []string
	for _, v := range valid {
		ids = append(ids, v.id())
	}
	return s.cfg.Network.Retain(ctx, ids)
}

// SocketIn is where an agent with that run directory listens.
func SocketIn(runDir string) string { return filepath.Join(runDir, "cni.sock") }
