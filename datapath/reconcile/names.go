package reconcile

import (
	"sync"

	"github.com/skep-io/skep/datapath/desired"
)

// names are whose ids of services are. They are safe for concurrent use.
type names struct {
	mu sync.RWMutex
	of map[uint32]desired.PortName
}

func (n *names) put(id uint32, name desired.PortName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.of[id] = name
}

func (n *names) delete(id uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.of, id)
}

// Name returns whose an id is, and whether it is anybody's. It is safe for concurrent use.
func (t *Services) Name(id uint32) (desired.PortName, bool) {
	t.services.names.mu.RLock()
	defer t.services.names.mu.RUnlock()
	name, ok := t.services.names.of[id]
	return name, ok
}
