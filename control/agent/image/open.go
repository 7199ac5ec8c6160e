package image

import (
	"fmt"
	"io"

	containerd "github.com/containerd/containerd/v2/client"
)

// Open connects to the containerd at a socket, for programs that need its images alone. The caller closes the connection.
func Open(address, namespace string) (*Store, io.Closer, error) {
	client, err := containerd.New(address, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return nil, nil, fmt.Errorf("containerd at %s: %w", address, err)
	}
	return NewStore(client), client, nil
}
