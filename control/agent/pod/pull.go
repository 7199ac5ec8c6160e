package pod

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// retryConfig is how long to wait before a container whose configuration could not be made is tried again, unless what it
// refers to changes before.
const retryConfig = 10 * time.Second

// pull makes a container's image present, telling the user what it does.
func (w *worker) pull(ctx context.Context, p *corev1.Pod, c *corev1.Container) (container.Image, *fault) {
	if _, err := reference.ParseNormalizedNamed(c.Image); err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", c.Image, c.Image, err)
		w.event(p, c.Name, corev1.EventTypeWarning, "InspectFailed", message)
		w.event(p, c.Name, corev1.EventTypeWarning, "Failed", "Error: InvalidImageName")
		return container.Image{}, &fault{Waiting{Reason: "InvalidImageName", Message: message}, retryConfig}
	}
	policy := c.ImagePullPolicy
	if policy != corev1.PullAlways {
		if image, err := w.cfg.Runtime.EnsureImage(ctx, c.Image, corev1.PullNever, nil); err == nil {
			w.event(p, c.Name, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine", c.Image))
			return image, nil
		}
	}
	if policy == corev1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		w.event(p, c.Name, corev1.EventTypeWarning, "ErrImageNeverPull", message)
		w.event(p, c.Name, corev1.EventTypeWarning, "Failed", "Error: ErrImageNeverPull")
		return container.Image{}, &fault{Waiting{Reason: "ErrImageNeverPull", Message: message}, retryConfig}
	}
	return w.fetch(ctx, p, c)
}

// fetch pulls from the registry.
func (w *worker) fetch(ctx context.Context, p *corev1.Pod, c *corev1.Container) (container.Image, *fault) {
	creds, missing := w.cfg.Inputs.Credentials(ctx, p)
	if len(missing) > 0 {
		w.event(p, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	w.event(p, c.Name, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
	begun := time.Now()
	image, err := w.cfg.Runtime.EnsureImage(ctx, c.Image, corev1.PullAlways, creds)
	if err == nil {
		took := time.Since(begun).Truncate(time.Millisecond)
		w.event(p, c.Name, corev1.EventTypeNormal, "Pulled",
			fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", c.Image, took, took, image.Size))
		return image, nil
	}
	if ctx.Err() != nil {
		return container.Image{}, &fault{}
	}
	w.event(p, c.Name, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", c.Image, err))
	w.event(p, c.Name, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
	return container.Image{}, w.pullFault(c, err)
}

// pullFault lengthens the pull back-off of the container.
func (w *worker) pullFault(c *corev1.Container, err error) *fault {
	w.mu.Lock()
	b := w.pulls[c.Name].next(time.Now(), time.Now())
	w.pulls[c.Name] = b
	w.mu.Unlock()
	return &fault{Waiting{
		Reason: "ErrImagePull", Message: err.Error(),
		LaterReason: "ImagePullBackOff", LaterMessage: fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %v", c.Image, err),
	}, b.Delay}
}
