package main

import "path/filepath"

// paths are the places that a node uses on its machine.
type paths struct {
	// data survives a reboot: etcd, keys, containerd's root, pod directories, log.
	data string
	// run does not: sockets, namespaces, the lock.
	run string
	// bpf holds the pinned maps, programs and links.
	bpf string
}

func defaultPaths() paths {
	return paths{data: "/var/lib/skep", run: "/run/skep", bpf: "/sys/fs/bpf/skep"}
}

func (p paths) kubeconfig() string { return filepath.Join(p.data, "kubeconfig") }
func (p paths) keys() string       { return filepath.Join(p.data, "pki") }
func (p paths) etcd() string       { return filepath.Join(p.data, "etcd") }
func (p paths) log() string        { return filepath.Join(p.data, "skep.log") }
func (p paths) lock() string       { return filepath.Join(p.run, "lock") }

// cni is the record of what a network-only agent installed for the container runtime; it says that there is or was one.
func (p paths) cni() string { return filepath.Join(p.data, "cni.json") }
