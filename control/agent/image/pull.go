package image

import (
	"context"
	"fmt"
	"os"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// Ensure makes an image present and unpacked as the policy says. Pulls of one reference are done once for all that wait.
// Returns ErrInvalidName, ErrNeverPull or ErrPull.
func (s *Store) Ensure(ctx context.Context, ref string, policy corev1.PullPolicy, creds []container.Credential) (container.Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return container.Image{}, err
	}
	if policy != corev1.PullAlways {
		u, err := s.Get(ctx, ref)
		switch {
		case err == nil:
			return u.status(), nil
		case !errdefs.IsNotFound(err):
			return container.Image{}, err
		case policy == corev1.PullNever:
			return container.Image{}, fmt.Errorf("%w: Container image %q is not present with pull policy of Never", ErrNeverPull, ref)
		}
	}
	// The pull outlives the caller that began it, if another waits for it.
	result := s.flight.DoChan("pull "+name, func() (any, error) {
		return s.pull(context.WithoutCancel(ctx), name, creds)
	})
	select {
	case <-ctx.Done():
		return container.Image{}, ctx.Err()
	case r := <-result:
		if r.Err != nil {
			return container.Image{}, fmt.Errorf("%w: failed to pull and unpack image %q: %s", ErrPull, name, r.Err)
		}
		u, _ := r.Val.(Unpacked)
		return u.status(), nil
	}
}

func (s *Store) pull(ctx context.Context, name string, creds []container.Credential) (Unpacked, error) {
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(
			// A registry on loopback is on this machine: nobody listens in between.
			docker.WithPlainHTTP(docker.MatchLocalhost),
			docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthCreds(func(host string) (string, string, error) {
				user, secret := credential(name, host, creds)
				return user, secret, nil
			}))),
		),
	})
	img, err := s.client.Pull(ctx, name, containerd.WithResolver(resolver), containerd.WithPullUnpack, containerd.WithPullSnapshotter(Snapshotter))
	if err != nil {
		return Unpacked{}, err
	}
	return s.unpack(ctx, img.Metadata())
}

// credential chooses the login for a registry; the longest matching registry wins, which may name a path in it.
func credential(name, host string, creds []container.Credential) (user, secret string) {
	best := -1
	for _, c := range creds {
		registry := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(c.Registry, "https://"), "http://"), "/")
		registry = strings.TrimSuffix(strings.TrimSuffix(registry, "/v2"), "/v1")
		if registry == "index.docker.io" {
			registry = "docker.io"
		}
		if !matches(registry, name, host) || len(registry) <= best {
			continue
		}
		best = len(registry)
		user, secret = c.Username, c.Password
		if c.Token != "" {
			user, secret = "", c.Token
		}
	}
	return user, secret
}

func matches(registry, name, host string) bool {
	if registry == host || registry == name || strings.HasPrefix(name, registry+"/") {
		return true
	}
	named, err := reference.ParseNormalizedNamed(name)
	return err == nil && registry == reference.Domain(named)
}

// openIn opens a file of an image without following links out of it.
func openIn(root, name string) (*os.File, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Open(name)
}
