package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/image"
)

// shim is the containerd runtime that all containers use.
const shim = "io.containerd.runc.v2"

// Create makes a container that does not run yet. The image must be present.
func (r *Runtime) Create(ctx context.Context, cfg container.Config) (string, error) {
	img, err := r.images.Get(ctx, cfg.Image)
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", cfg.Name, err)
	}
	id := newID()
	spec, err := r.spec(ctx, id, cfg, img)
	if err != nil {
		return "", fmt.Errorf("failed to generate container %q spec: %w", id, err)
	}
	rec := newRecord(fixedOf(id, cfg, img))
	if rec.mounts, err = r.prepare(ctx, id, img); err != nil {
		return "", fmt.Errorf("create container %s: %w", cfg.Name, err)
	}
	if err := r.store(ctx, rec, spec); err != nil {
		_ = r.client.SnapshotService(image.Snapshotter).Remove(context.WithoutCancel(ctx), id)
		return "", fmt.Errorf("create container %s: %w", cfg.Name, err)
	}
	r.mu.Lock()
	r.records[id] = rec
	r.mu.Unlock()
	return id, nil
}

func (r *Runtime) spec(ctx context.Context, id string, cfg container.Config, img image.Unpacked) (*specs.Spec, error) {
	accounts, err := r.images.Accounts(ctx, img)
	if err != nil {
		return nil, err
	}
	user, err := resolveUser(cfg.Security, img.Config.User, accounts)
	if err != nil {
		return nil, err
	}
	spec, err := buildSpec(specInput{id: id, config: cfg, image: img.Config, user: user, host: r.host})
	if err != nil {
		return nil, err
	}
	if cfg.Security.Privileged {
		return spec, addHostDevices(ctx, spec)
	}
	return spec, nil
}

// prepare makes the container's writable layer. The label keeps it from being collected before the container refers to it;
// Remove and Adopt remove it by name.
func (r *Runtime) prepare(ctx context.Context, id string, img image.Unpacked) ([]mount.Mount, error) {
	root := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "skep"})
	snaps := r.client.SnapshotService(image.Snapshotter)
	mounts, err := snaps.Prepare(ctx, id, img.ChainID.String(), root)
	if err != nil {
		return nil, fmt.Errorf("file system of image %s: %w", img.Name, err)
	}
	return mounts, nil
}

func (r *Runtime) store(ctx context.Context, rec *record, spec *specs.Spec) error {
	value, err := encode(rec.fixed)
	if err != nil {
		return err
	}
	wire, err := typeurl.MarshalAny(spec)
	if err != nil {
		return fmt.Errorf("container spec: %w", err)
	}
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID: rec.id(), Image: rec.fixed.Status.Image, Runtime: containers.RuntimeInfo{Name: shim}, Spec: wire,
		Snapshotter: image.Snapshotter, SnapshotKey: rec.id(),
		Labels: map[string]string{labelFixed: value, labelPod: string(rec.fixed.Status.PodUID)},
	})
	return err
}

func fixedOf(id string, cfg container.Config, img image.Unpacked) fixed {
	stop := cfg.StopSignal
	if stop == "" {
		stop = img.Config.StopSignal
	}
	if stop == "" {
		stop = "SIGTERM"
	}
	return fixed{
		Status: container.Status{
			ID: id, PodUID: cfg.PodUID, PodNamespace: cfg.PodNamespace, PodName: cfg.PodName, Name: cfg.Name, Attempt: cfg.Attempt,
			Init: cfg.Init, State: container.Created, CreatedAt: time.Now().UTC(), Image: cfg.Image, ImageID: img.Reference(),
			LogPath: cfg.LogPath, TerminationMessagePath: cfg.TerminationMessagePath, SpecHash: cfg.SpecHash,
		},
		Cgroup: ownCgroup(cfg, id), StopSignal: stop, TTY: cfg.TTY, Stdin: cfg.Stdin, StdinOnce: cfg.StdinOnce,
	}
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Remove removes a container, which is killed first if it runs. A container that is gone is removed already.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	rec, err := r.lookup(id)
	if err != nil {
		return nil
	}
	rec.life.Lock()
	defer rec.life.Unlock()
	if rec.get().State == container.Running {
		if err := r.Kill(ctx, id); err != nil {
			return err
		}
	}
	if rec.get().State == container.Exited {
		select {
		case <-rec.gone:
		case <-ctx.Done():
			return fmt.Errorf("remove container %s: %w", id, ctx.Err())
		}
	}
	rec.mu.Lock()
	kept := rec.taskKept
	rec.mu.Unlock()
	if kept {
		if err := r.deleteTask(ctx, id); err != nil {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
	}
	if err := r.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := r.client.SnapshotService(image.Snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	r.forget(rec)
	return nil
}
