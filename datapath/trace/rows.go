package trace

import (
	"errors"
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
)

// watchRows notes what is in the tables before a program meets the packet. It returns [ErrLive] if the packet would be taken for
// one of somebody's flow.
func (w *walker) watchRows(p Packet) error {
	key, _ := abi.NewConntrackKey(p.Source, p.Target, uint8(w.protocol))
	_, exists, err := w.Maps.Flow(key)
	if err != nil {
		return err
	}
	if _, ours := w.made[key]; exists && !ours {
		return ErrLive
	}
	if _, target, ok := w.tables.frontend(p.Target, w.protocol, true); ok {
		return errors.Join(w.watchAffinity(p.Source.Addr(), target.Service), w.watchAffinity(p.Source.Addr(), target.Outside))
	}
	return nil
}

func (w *walker) watchAffinity(client netip.Addr, service uint32) error {
	at := affinityOf{client, service}
	if _, known := w.affinity[at]; known || w.tables.services.Services[service].Row.Affinity == 0 {
		return nil
	}
	row, exists, err := w.Maps.Affinity(client, service)
	w.affinity[at] = affinityWas{row, exists}
	return err
}

// noteRows notes what the program made of a packet of which there was nothing before.
func (w *walker) noteRows(p Packet) error {
	key, _ := abi.NewConntrackKey(p.Source, p.Target, uint8(w.protocol))
	row, exists, err := w.Maps.Flow(key)
	if err != nil || !exists {
		return err
	}
	w.made[key] = struct{}{}
	if row.Value.Translated() {
		w.made[row.Value.Other(key)] = struct{}{}
	}
	return nil
}

// clean takes away what the programs wrote for packets that nobody sent.
func (w *walker) clean() error {
	var errs []error
	for key := range w.made {
		errs = append(errs, w.Maps.DeleteFlow(key))
	}
	for at, was := range w.affinity {
		if was.exists {
			errs = append(errs, w.Maps.PutAffinity(at.client, at.service, was.row))
			continue
		}
		errs = append(errs, w.Maps.DeleteAffinity(at.client, at.service))
	}
	return errors.Join(errs...)
}
