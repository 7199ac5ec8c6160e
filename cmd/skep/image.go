package main

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/image"
)

const (
	// selfImage is this binary as an image.
	selfImage = "skep.dev/skep:self"
	// containerdNamespace keeps our images and containers apart from other users' of the same containerd.
	containerdNamespace = "skep"
)

func imageCommand() *cobra.Command {
	cfg := defaultNodeConfig()
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Import, pull, list and remove this node's images",
	}
	cmd.PersistentFlags().StringVar(&cfg.paths.run, "run-dir", cfg.paths.run, "run directory of the node")
	cmd.PersistentFlags().StringVar(&cfg.containerd, "containerd-address", "", "socket of containerd; default: the node's own")
	open := func() (*image.Store, func(), error) { return openImages(cfg) }
	cmd.AddCommand(imageListCommand(open), imageImportCommand(open), imagePullCommand(open), imageRemoveCommand(open), imageSelfCommand(open))
	return cmd
}

// openStore connects to the node's containerd; the returned function disconnects.
type openStore func() (*image.Store, func(), error)

func openImages(cfg nodeConfig) (*image.Store, func(), error) {
	address := cfg.containerd
	if address == "" {
		address = containerdAddress(cfg.paths)
	}
	if _, err := os.Stat(address); err != nil {
		return nil, nil, fmt.Errorf("no containerd at %s: start the node with `skep up`, or name another socket with --containerd-address", address)
	}
	client, err := containerd.New(address, containerd.WithDefaultNamespace(containerdNamespace))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	return image.NewStore(client), func() { client.Close() }, nil
}

// containerdAddress is the socket of the node's containerd: its own, or the one that it was started with.
func containerdAddress(p paths) string {
	if data, err := os.ReadFile(containerdRecord(p)); err == nil {
		return string(data)
	}
	return filepath.Join(p.run, "containerd", "containerd.sock")
}

// containerdRecord is where a node notes which containerd it uses.
func containerdRecord(p paths) string { return filepath.Join(p.run, "containerd-address") }

func imageListCommand(open openStore) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List images",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, done, err := open()
			if err != nil {
				return err
			}
			defer done()
			images, err := store.List(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tID\tSIZE")
			for _, i := range images {
				for _, tag := range i.Tags {
					fmt.Fprintf(w, "%s\t%.19s\t%.1f MB\n", tag, i.ID, float64(i.Size)/1e6)
				}
			}
			return w.Flush()
		},
	}
}

func imageImportCommand(open openStore) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Import the images of an OCI or Docker archive",
		Example: `  skep image import nginx.tar
  docker save nginx | skep image import -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := os.Stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			store, done, err := open()
			if err != nil {
				return err
			}
			defer done()
			return importImages(cmd.Context(), store, in)
		},
	}
}

func importImages(ctx context.Context, store *image.Store, in io.Reader) error {
	images, err := store.Import(ctx, in)
	if err != nil {
		return err
	}
	for _, i := range images {
		for _, tag := range i.Tags {
			fmt.Printf("%s imported\n", tag)
		}
	}
	return nil
}

func imagePullCommand(open openStore) *cobra.Command {
	return &cobra.Command{
		Use:     "pull IMAGE",
		Short:   "Pull an image from its registry",
		Example: `  skep image pull nginx:1.27`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, done, err := open()
			if err != nil {
				return err
			}
			defer done()
			img, err := store.Ensure(cmd.Context(), args[0], corev1.PullAlways, nil)
			if err != nil {
				return err
			}
			fmt.Printf("%s pulled\n", img.Ref)
			return nil
		},
	}
}

func imageRemoveCommand(open openStore) *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE…",
		Short: "Remove images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, done, err := open()
			if err != nil {
				return err
			}
			defer done()
			for _, ref := range args {
				if _, err := store.Status(cmd.Context(), ref); errdefs.IsNotFound(err) {
					return fmt.Errorf("image %s is not on this node", ref)
				} else if err != nil {
					return err
				}
				if err := store.Remove(cmd.Context(), ref); err != nil {
					return err
				}
				fmt.Printf("%s removed\n", ref)
			}
			return nil
		},
	}
}

func imageSelfCommand(open openStore) *cobra.Command {
	return &cobra.Command{
		Use:   "self",
		Short: "Make an image of this very binary and import it",
		Long: "Make an OCI image of this very binary, with the binary at /skep, and import it as " + selfImage + `, unless it is there
already. The demo and the benchmarks run it, so they need no registry.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, done, err := open()
			if err != nil {
				return err
			}
			defer done()
			return ensureSelf(cmd.Context(), store)
		},
	}
}

// ensureSelf imports the image of this binary unless this very build is there, and removes those of earlier builds.
func ensureSelf(ctx context.Context, store *image.Store) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	build, err := buildTag(self)
	if err != nil {
		return err
	}
	if _, err := store.Status(ctx, build); err == nil {
		return nil
	} else if !errdefs.IsNotFound(err) {
		return err
	}
	images, err := store.List(ctx)
	if err != nil {
		return err
	}
	if err := importSelf(ctx, store, self, build); err != nil {
		return err
	}
	for _, i := range images {
		for _, tag := range i.Tags {
			if strings.HasPrefix(tag, buildPrefix) {
				if err := store.Remove(ctx, tag); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// buildPrefix begins the tag that names a build of this binary.
const buildPrefix = "skep.dev/skep:build-"

// buildTag names the build of a binary by the identifier that the Go linker writes into it, which follows its content.
func buildTag(binary string) (string, error) {
	f, err := elf.Open(binary)
	if err != nil {
		return "", err
	}
	defer f.Close()
	note := f.Section(".note.go.buildid")
	if note == nil {
		return "", fmt.Errorf("%s has no Go build identifier", binary)
	}
	id, err := note.Data()
	if err != nil {
		return "", fmt.Errorf("read build identifier of %s: %w", binary, err)
	}
	return fmt.Sprintf("%s%.12x", buildPrefix, sha256.Sum256(id)), nil
}

// importSelf streams the archive into the import, so that it is never in memory or on disk as a whole.
func importSelf(ctx context.Context, store *image.Store, binary, build string) error {
	r, w := io.Pipe()
	made := make(chan error, 1)
	go func() {
		err := image.Archive(w, image.Spec{Binary: binary, Target: "/skep", Tags: []string{selfImage, build}})
		w.CloseWithError(err)
		made <- err
	}()
	err := importImages(ctx, store, r)
	r.Close()
	return errors.Join(err, <-made)
}
