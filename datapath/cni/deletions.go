package cni

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// deletions is the directory of what was to be removed while no agent ran: a file for each, named as the attachment is. It goes
// with a reboot, as the attachments do.
type deletions string

// deletionsBeside is the directory of an agent with that socket.
func deletionsBeside(socket string) deletions {
	return deletions(filepath.Join(filepath.Dir(socket), "cni-deletions"))
}

func (d deletions) note(id string) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	return os.WriteFile(d.path(id), nil, 0o600)
}

func (d deletions) forget(id string) error {
	if err := os.Remove(d.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d deletions) list() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, err
}

// path has no part of the name lead elsewhere: the runtime's library checks names, but this does not depend on it.
func (d deletions) path(id string) string {
	return filepath.Join(string(d), strings.ReplaceAll(id, "/", "_"))
}
