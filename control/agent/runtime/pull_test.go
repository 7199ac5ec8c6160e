package runtime

import (
	"bytes"
	"errors"
	stdlog "log"
	"net/http/httptest"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/google/go-containerregistry/pkg/registry"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/image"
)

func TestPull(t *testing.T) {
	n := newNode(t)
	t.Cleanup(func() { n.Close() })
	var quiet bytes.Buffer
	server := httptest.NewServer(registry.New(registry.Logger(stdlog.New(&quiet, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/app:1"
	present, err := n.client.ImageService().Get(t.Context(), testImage)
	if err != nil {
		t.Fatal(err)
	}
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))})
	if err := n.client.Push(t.Context(), ref, present.Target, containerd.WithResolver(resolver)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.EnsureImage(t.Context(), ref, corev1.PullNever, nil); !errors.Is(err, image.ErrNeverPull) {
		t.Errorf("never: %v", err)
	}
	got, err := n.EnsureImage(t.Context(), ref, corev1.PullIfNotPresent, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(got.Ref, "/team/app@"+present.Target.Digest.String()) {
		t.Errorf("%+v", got)
	}
	if _, err := n.EnsureImage(t.Context(), ref+"-absent", corev1.PullAlways, nil); !errors.Is(err, image.ErrPull) {
		t.Errorf("absent: %v", err)
	}
	if _, err := n.EnsureImage(t.Context(), "Bad Name", corev1.PullAlways, nil); !errors.Is(err, image.ErrInvalidName) {
		t.Errorf("bad name: %v", err)
	}
	if err := n.RemoveImage(t.Context(), ref); err != nil {
		t.Error(err)
	}
	if _, err := n.EnsureImage(t.Context(), ref, corev1.PullNever, nil); !errors.Is(err, image.ErrNeverPull) {
		t.Errorf("removed: %v", err)
	}
}
