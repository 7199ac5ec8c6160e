package bpfmap

// EventsLost returns how many events on flows found no room, of all who have watched.
func (m *Maps) EventsLost() (uint64, error) {
	row, _, err := m.watch.get(0)
	return row.Lost, err
}
