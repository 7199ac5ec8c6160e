// Package image holds the node's images: pulls, imports, lists and removes them in containerd, and makes archives.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"

	"github.com/skep-io/skep/control/agent/container"
)

// The errors of Ensure; test with errors.Is.
var (
	// ErrInvalidName is returned when a reference cannot be parsed.
	ErrInvalidName = errors.New("InvalidImageName")
	// ErrNeverPull is returned when the image is absent and the policy forbids pulling.
	ErrNeverPull = errors.New("ErrImageNeverPull")
	// ErrPull is returned when pulling failed.
	ErrPull = errors.New("ErrImagePull")
)

// Snapshotter is the containerd snapshotter that holds unpacked images.
const Snapshotter = "overlayfs"

// Store is the images of one containerd namespace. It is safe for concurrent use.
type Store struct {
	client *containerd.Client
	flight singleflight.Group

	mu sync.Mutex
	// unpacked caches by manifest digest, users by chain id: both are content-addressed and never change.
	unpacked map[digest.Digest]Unpacked
	accounts map[digest.Digest]Accounts
}

// Unpacked is an image that a container can be made of.
type Unpacked struct {
	// Name is the full reference, Digest that of what it points to.
	Name   string
	Digest digest.Digest
	// ConfigDigest is the image id.
	ConfigDigest digest.Digest
	Config       ocispec.ImageConfig
	// ChainID names the snapshot of the unpacked layers.
	ChainID digest.Digest
	Size    int64
}

// Accounts are the files that name an image's users and groups; empty where the image has none.
type Accounts struct{ Passwd, Group []byte }

// NewStore uses the client's default namespace.
func NewStore(client *containerd.Client) *Store {
	return &Store{client: client, unpacked: map[digest.Digest]Unpacked{}, accounts: map[digest.Digest]Accounts{}}
}

// Normalize completes a reference as users write it ("nginx") to the full one ("docker.io/library/nginx:latest").
// Returns ErrInvalidName if it cannot be parsed.
func Normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("%w: couldn't parse image name %q: %s", ErrInvalidName, ref, err)
	}
	return named.String(), nil
}

// Get returns an image that is present, unpacked. Returns an error for which errdefs.IsNotFound holds if it is absent.
func (s *Store) Get(ctx context.Context, ref string) (Unpacked, error) {
	img, err := s.find(ctx, ref)
	if err != nil {
		return Unpacked{}, err
	}
	s.mu.Lock()
	u, ok := s.unpacked[img.Target.Digest]
	s.mu.Unlock()
	if ok {
		u.Name = img.Name
		return u, nil
	}
	return s.unpack(ctx, img)
}

// find looks an image up by reference, or by image id ("sha256:…" of its config).
func (s *Store) find(ctx context.Context, ref string) (images.Image, error) {
	name, err := Normalize(ref)
	if err == nil {
		img, err := s.client.ImageService().Get(ctx, name)
		if err == nil || !errdefs.IsNotFound(err) {
			return img, err
		}
	}
	if !strings.HasPrefix(ref, "sha256:") {
		if err != nil {
			return images.Image{}, err
		}
		return images.Image{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
	}
	all, err := s.List(ctx)
	if err != nil {
		return images.Image{}, err
	}
	for _, img := range all {
		if img.ID == ref && len(img.Tags) > 0 {
			return s.client.ImageService().Get(ctx, img.Tags[0])
		}
	}
	return images.Image{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

// unpack makes sure that the layers are snapshots, and remembers the image's configuration.
func (s *Store) unpack(ctx context.Context, record images.Image) (Unpacked, error) {
	img := containerd.NewImageWithPlatform(s.client, record, platforms.Default())
	if err := img.Unpack(ctx, Snapshotter); err != nil {
		return Unpacked{}, fmt.Errorf("unpack image %s: %w", record.Name, err)
	}
	u, err := s.describe(ctx, img)
	if err != nil {
		return Unpacked{}, err
	}
	s.mu.Lock()
	s.unpacked[record.Target.Digest] = u
	s.mu.Unlock()
	return u, nil
}

func (s *Store) describe(ctx context.Context, img containerd.Image) (Unpacked, error) {
	desc, err := img.Config(ctx)
	if err != nil {
		return Unpacked{}, fmt.Errorf("image %s: %w", img.Name(), err)
	}
	data, err := content.ReadBlob(ctx, s.client.ContentStore(), desc)
	if err != nil {
		return Unpacked{}, fmt.Errorf("image %s: %w", img.Name(), err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return Unpacked{}, fmt.Errorf("image %s: config: %w", img.Name(), err)
	}
	size, err := img.Size(ctx)
	if err != nil {
		return Unpacked{}, fmt.Errorf("image %s: %w", img.Name(), err)
	}
	return Unpacked{
		Name: img.Name(), Digest: img.Target().Digest, ConfigDigest: desc.Digest,
		Config: config.Config, ChainID: identity.ChainID(config.RootFS.DiffIDs), Size: size,
	}, nil
}

// Accounts reads the image's /etc/passwd and /etc/group, once for each image.
func (s *Store) Accounts(ctx context.Context, u Unpacked) (Accounts, error) {
	s.mu.Lock()
	a, ok := s.accounts[u.ChainID]
	s.mu.Unlock()
	if ok {
		return a, nil
	}
	result, err, _ := s.flight.Do("accounts "+u.ChainID.String(), func() (any, error) {
		key := "accounts-" + u.ChainID.Encoded()
		snaps := s.client.SnapshotService(Snapshotter)
		// The label keeps containerd from collecting the view while it is mounted.
		mounts, err := snaps.View(ctx, key, u.ChainID.String(), snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "skep"}))
		if errdefs.IsAlreadyExists(err) {
			mounts, err = snaps.Mounts(ctx, key)
		}
		if err != nil {
			return Accounts{}, fmt.Errorf("view image %s: %w", u.Name, err)
		}
		defer func() { _ = snaps.Remove(context.WithoutCancel(ctx), key) }()
		var a Accounts
		err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
			a.Passwd = readIn(root, "etc/passwd")
			a.Group = readIn(root, "etc/group")
			return nil
		})
		return a, err
	})
	if err != nil {
		return Accounts{}, err
	}
	a, _ = result.(Accounts)
	s.mu.Lock()
	s.accounts[u.ChainID] = a
	s.mu.Unlock()
	return a, nil
}

// List returns all images, one for each id.
func (s *Store) List(ctx context.Context) ([]container.Image, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byID := map[string]*container.Image{}
	var order []string
	for _, record := range records {
		u, err := s.describe(ctx, containerd.NewImageWithPlatform(s.client, record, platforms.Default()))
		if err != nil {
			// An image of another platform, or one whose content is being removed.
			continue
		}
		id := u.ConfigDigest.String()
		if byID[id] == nil {
			img := u.status()
			img.Tags = nil
			byID[id] = &img
			order = append(order, id)
		}
		byID[id].Tags = append(byID[id].Tags, record.Name)
	}
	slices.Sort(order)
	out := make([]container.Image, 0, len(order))
	for _, id := range order {
		out = append(out, *byID[id])
	}
	return out, nil
}

// Status returns one image that is present. Returns an error for which errdefs.IsNotFound holds if it is absent.
func (s *Store) Status(ctx context.Context, ref string) (container.Image, error) {
	u, err := s.Get(ctx, ref)
	if err != nil {
		return container.Image{}, err
	}
	return u.status(), nil
}

func (u Unpacked) status() container.Image {
	img := container.Image{ID: u.ConfigDigest.String(), Tags: []string{u.Name}, Size: u.Size, User: u.Config.User}
	if named, err := reference.ParseNormalizedNamed(u.Name); err == nil {
		img.Ref = reference.TrimNamed(named).Name() + "@" + u.Digest.String()
	}
	return img
}

// Remove removes a reference; its content goes with the last one. A missing image is removed already.
func (s *Store) Remove(ctx context.Context, ref string) error {
	img, err := s.find(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.unpacked, img.Target.Digest)
	s.mu.Unlock()
	if err := s.client.ImageService().Delete(ctx, img.Name, images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", img.Name, err)
	}
	return nil
}

// Import reads an OCI or Docker archive and unpacks its images for this platform.
func (s *Store) Import(ctx context.Context, r io.Reader) ([]container.Image, error) {
	records, err := s.client.Import(ctx, r, containerd.WithImportPlatform(platforms.Default()))
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	var out []container.Image
	for _, record := range records {
		u, err := s.unpack(ctx, record)
		if err != nil {
			return out, err
		}
		out = append(out, u.status())
	}
	return out, nil
}

func readIn(root, name string) []byte {
	f, err := openIn(root, path.Clean(name))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, 1<<20))
	return data
}

// Reference names the image by digest, in a form that can be pulled; it is empty if the image has no name.
func (u Unpacked) Reference() string { return u.status().Ref }
