package podnet

import (
	"errors"
	"fmt"
	"os"

	"github.com/skep-io/skep/datapath/netns"
)

// Visit runs fn in the network namespaces of the node and of the pods whose cookies are wanted. Where the kernel tells no cookies,
// that is 0. Each pod's errors concern it alone.
func (m *Manager) Visit(wanted func(cookie uint64) bool, fn func() error) error {
	visit := func() error {
		cookie, err := netns.Cookie()
		if err != nil || !wanted(cookie) {
			return err
		}
		return fn()
	}
	errs := []error{visit()}
	entries, err := os.ReadDir(m.cfg.Dir)
	errs = append(errs, err)
	for _, e := range entries {
		ns, err := openNamespace(m.path(e.Name()))
		if err != nil {
			errs = append(errs, err)
		}
		if ns == nil {
			continue
		}
		if err := enter(ns, m.hostNS, visit); err != nil {
			errs = append(errs, fmt.Errorf("network of pod %s: %w", e.Name(), err))
		}
		ns.Close()
	}
	return errors.Join(errs...)
}
