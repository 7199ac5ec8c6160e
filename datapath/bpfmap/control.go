package bpfmap

import "github.com/skep-io/skep/datapath/abi"

// RaiseEpoch makes every flow decide anew, at its next packet, where that packet goes. It must follow each change of an
// endpoint or of a node's address.
func (m *Maps) RaiseEpoch() error {
	return m.changeControl(func(c *abi.Control) { c.Epoch++ })
}

// RaiseGeneration moves the clock of the flow table by one and returns what it says now.
func (m *Maps) RaiseGeneration() (uint32, error) {
	var now uint32
	err := m.changeControl(func(c *abi.Control) { c.Generation++; now = c.Generation })
	return now, err
}

// Generation returns what the clock of the flow table says.
func (m *Maps) Generation() (uint32, error) {
	row, _, err := m.control.get(0)
	return row.Generation, err
}

func (m *Maps) changeControl(change func(*abi.Control)) error {
	m.controlMu.Lock()
	defer m.controlMu.Unlock()
	row, _, err := m.control.get(0)
	if err != nil {
		return err
	}
	change(&row)
	return m.control.put(0, row)
}
