package datapath

import (
	"errors"
	"log/slog"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/load"
	"github.com/skep-io/skep/datapath/podnet"
)

// front attaches the XDP program to the devices that are to have it. All that it does the programs behind it do too, so a device
// without it is no fault.
type front struct {
	objects *load.Objects
	mode    desired.XDPMode
	logger  *slog.Logger
}

// attach gives a device the program, or takes it away, as the mode says.
func (f front) attach(device string, ifindex int) error {
	wanted := f.mode == desired.XDPOn
	if f.mode == desired.XDPAuto || f.mode == "" {
		var err error
		if wanted, err = podnet.IsHardware(ifindex); err != nil {
			return err
		}
	}
	if !wanted {
		return f.objects.DetachFront(ifindex)
	}
	err := f.objects.AttachFront(ifindex)
	if errors.Is(err, load.ErrNoXDP) || errors.Is(err, load.ErrForeignXDP) {
		f.logger.Info("device without XDP, tc does its work", "device", device, "reason", err)
		return nil
	}
	if err == nil {
		f.logger.Info("XDP attached", "device", device)
	}
	return err
}
