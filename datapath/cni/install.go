package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// configName sorts before what other networks usually install: the runtime takes the first.
const configName = "10-skep.conflist"

// Installation is what an agent puts where the container runtime looks for plugins and networks.
type Installation struct {
	// BinDir and ConfDir are the runtime's directories.
	BinDir, ConfDir string
	// Binary is the program to install as plugin.
	Binary string
	// Socket is where the agent listens.
	Socket string
	// Record notes what was written, for Remove; it survives a reboot as those files do.
	Record string
}

// DefaultBinDir and DefaultConfDir are where runtimes look unless they are told otherwise.
const (
	DefaultBinDir  = "/opt/cni/bin"
	DefaultConfDir = "/etc/cni/net.d"
)

// InstallPlugin puts the plugin in place, and one for loopback where the node has none. A plugin that runs is not disturbed.
func (i Installation) InstallPlugin() error {
	if err := os.MkdirAll(i.BinDir, 0o755); err != nil {
		return fmt.Errorf("directory of CNI plugins: %w", err)
	}
	plugin := filepath.Join(i.BinDir, NetworkName)
	if err := i.install(plugin, i.Binary); err != nil {
		return err
	}
	lo := filepath.Join(i.BinDir, loopback)
	if _, err := os.Stat(lo); err == nil && !i.wrote(lo) {
		return nil
	}
	return i.install(lo, plugin)
}

// install puts the binary at path as another name of the same file, or as a copy where that is on another file system. A link
// that leads to the binary would not do: the runtime may not see what the agent sees.
func (i Installation) install(path, binary string) error {
	fresh := filepath.Join(i.BinDir, ".skep-plugin")
	if err := i.note(fresh, path); err != nil {
		return err
	}
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("CNI plugin: %w", err)
	}
	if err := os.Link(binary, fresh); err != nil {
		if err := copyFile(fresh, binary); err != nil {
			return fmt.Errorf("CNI plugin: %w", err)
		}
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("CNI plugin: %w", err)
	}
	// Two names of one file are renamed into each other by doing nothing.
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("CNI plugin: %w", err)
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// networkConfig is the network's configuration. Runtimes that know the later version take it from cniVersions. Host ports need no
// capability: they follow from the pods themselves.
func (i Installation) networkConfig() ([]byte, error) {
	type plugin struct {
		Type   string `json:"type"`
		Socket string `json:"socket"`
	}
	return json.MarshalIndent(struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"`
		Name        string   `json:"name"`
		Plugins     []plugin `json:"plugins"`
	}{"1.0.0", []string{"1.0.0", "1.1.0"}, NetworkName, []plugin{{NetworkName, i.Socket}}}, "", "  ")
}

// InstallConfig writes the network's configuration, by which the runtime finds the plugin and the node becomes ready. It returns
// the configuration that the runtime prefers to ours, empty if there is none.
func (i Installation) InstallConfig() (before string, err error) {
	if err := os.MkdirAll(i.ConfDir, 0o755); err != nil {
		return "", fmt.Errorf("directory of CNI networks: %w", err)
	}
	path := filepath.Join(i.ConfDir, configName)
	// Runtimes look at every file whose name ends in one of their ways.
	fresh := filepath.Join(i.ConfDir, ".skep-network")
	if err := i.note(fresh, path); err != nil {
		return "", err
	}
	data, err := i.networkConfig()
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(fresh, append(data, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("CNI network: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", fmt.Errorf("CNI network: %w", err)
	}
	return i.preferred()
}

// preferred is the configuration whose name comes before ours.
func (i Installation) preferred() (string, error) {
	entries, err := os.ReadDir(i.ConfDir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) && !strings.HasPrefix(e.Name(), ".") {
			if e.Name() == configName {
				return "", nil
			}
			return filepath.Join(i.ConfDir, e.Name()), nil
		}
	}
	return "", nil
}

// Begin makes the record, which also says that this machine has an agent for somebody else's cluster.
func (i Installation) Begin() error {
	files, err := readRecord(i.Record)
	if err != nil {
		return err
	}
	return writeRecord(i.Record, files)
}

// note has files removed by Remove. It is called before they are there.
func (i Installation) note(paths ...string) error {
	files, err := readRecord(i.Record)
	if err != nil {
		return err
	}
	known := len(files)
	for _, p := range paths {
		if !slices.Contains(files, p) {
			files = append(files, p)
		}
	}
	if len(files) == known {
		return nil
	}
	return writeRecord(i.Record, files)
}

func (i Installation) wrote(path string) bool {
	files, err := readRecord(i.Record)
	return err == nil && slices.Contains(files, path)
}

// Installed says whether there is such a record.
func Installed(record string) bool {
	_, err := os.Stat(record)
	return err == nil
}

// Remove removes what the record names: the network first, so that the runtime starts no more pods in it. The record itself
// stays for [Forget]. A record that is not there is no error.
func Remove(record string) error {
	files, err := readRecord(record)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range slices.Backward(files) {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Forget removes the record.
func Forget(record string) error {
	if err := os.Remove(record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readRecord(record string) ([]string, error) {
	data, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	if err := json.Unmarshal(data, &files); err != nil {
		return nil, fmt.Errorf("%s: %w", record, err)
	}
	return files, nil
}

func writeRecord(record string, files []string) error {
	data, err := json.Marshal(files)
	if err != nil {
		return err
	}
	if err := os.WriteFile(record+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(record+".new", record)
}
