package pod

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/probe"
)

// hook runs a lifecycle hook of a container to its end.
func (w *worker) hook(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		_, stderr, code, err := w.cfg.Runtime.ExecSync(ctx, id, h.Exec.Command, 0)
		if err == nil && code != 0 {
			err = fmt.Errorf("command %q exited with %d: %s", h.Exec.Command, code, stderr)
		}
		return err
	case h.HTTPGet != nil:
		return probe.HTTPGet(ctx, h.HTTPGet, c, w.address(), "kube-lifecycle/1.37")
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return fmt.Errorf("container terminated before sleep hook finished")
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return fmt.Errorf("invalid handler of container %s", c.Name)
}

// address is where the node reaches the pod.
func (w *worker) address() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addressLocked()
}

func (w *worker) addressLocked() string {
	if ips := w.view.Sandbox.IPs; len(ips) > 0 {
		return ips[0]
	}
	if len(w.view.HostIPs) > 0 && w.pod.Spec.HostNetwork {
		return w.view.HostIPs[0]
	}
	return w.pod.Status.PodIP
}
