// Package kernel keeps the names from which the kernel answers DNS look-ups of pods before any socket sees them. It follows the
// cluster's zone: a change is in the kernel before the server's answers show it. What the kernel has no room for, and what it cannot
// say in full, it leaves to the server; so do kernels whose rows could not be written.
package kernel

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/config"
	"github.com/skep-io/skep/dns/wire"
)

const (
	// retry is the pause before rows that could not be written are written again.
	retry = time.Second
	// review is the pause before a look for room that was missing.
	review = time.Minute
)

// Answers are the names that the kernel has. It is safe for concurrent use.
type Answers struct {
	maps   *bpfmap.Maps
	zone   *cluster.Zone
	logger *slog.Logger
	origin []byte // wire form
	wake   chan struct{}

	mu sync.Mutex // guards what follows; taken after the zone's own lock
	// row is what was last written for the zone, without its flags.
	row abi.DNSZone
	// allowed are the flags that the configuration permits, able those that the rows permit.
	allowed, able abi.DNSZoneFlag
	// configured is false before the first configuration: what the process before had permitted stays until then.
	configured bool
	// following is false before the first comparison and after a failure: then changes wait for the next one.
	following bool
	// names and hosts count the rows of Services and namespaces, and those of endpoints.
	names, hosts int
}

// New returns the kernel's answers for the zone. Until Run has compared them and Apply was
// called, the kernel answers what it did before: a process that starts anew takes nothing away.
func New(maps *bpfmap.Maps, zone *cluster.Zone, logger *slog.Logger) (*Answers, error) {
	origin, err := wire.AppendName(nil, zone.Origin())
	if err != nil {
		return nil, err
	}
	a := &Answers{maps: maps, zone: zone, logger: logger, origin: origin, wake: make(chan struct{}, 1)}
	a.row.Labels = uint32(strings.Count(strings.TrimSuffix(zone.Origin(), "."), ".") + 1)
	return a, nil
}

// permitted are the flags that a configuration leaves: what the server alone can do must get to it.
func permitted(c *config.Config) abi.DNSZoneFlag {
	switch {
	case c.KernelAnswers != nil && !*c.KernelAnswers, c.RateLimit != nil, len(c.ACL) > 0, len(c.Rewrite) > 0, c.Log.Every > 0:
		return 0
	case c.SearchPath:
		return abi.DNSAnswer
	}
	return abi.DNSAnswer | abi.DNSComplete
}

// Apply takes a configuration into use. server, which does so in the server, is called in between, where the kernel answers only what
// both configurations permit.
func (a *Answers) Apply(c *config.Config, server func()) {
	next := permitted(c)
	a.allow(func(now abi.DNSZoneFlag) abi.DNSZoneFlag { return now & next })
	server()
	a.mu.Lock()
	a.configured = true
	a.mu.Unlock()
	a.allow(func(abi.DNSZoneFlag) abi.DNSZoneFlag { return next })
}

func (a *Answers) allow(change func(abi.DNSZoneFlag) abi.DNSZoneFlag) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.allowed = change(a.allowed)
	if a.following {
		a.write()
	} else if a.configured && a.allowed != permitted(&config.Config{}) {
		a.off() // what the process before had permitted is not permitted now
	}
}

// Run keeps the kernel in step with the zone until ctx ends. The kernel goes on answering.
func (a *Answers) Run(ctx context.Context) error {
	if !a.zone.WaitSynced(ctx) {
		return nil
	}
	defer a.zone.Follow(nil, nil)
	for {
		pause := review
		err := a.compare()
		if err != nil {
			pause = retry
			a.logger.Warn("the kernel answers no DNS look-ups until its names can be written", "error", err)
		}
		if err := a.wait(ctx, pause, err == nil && a.complete()); err != nil {
			return nil
		}
	}
}

// wait returns when the names are to be compared again: after a failure, after a pause where they are not right or not complete.
func (a *Answers) wait(ctx context.Context, pause time.Duration, right bool) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	again := timer.C
	if right {
		again = nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-again:
		return nil
	case <-a.wake:
	}
	select { // a fault that stays must not keep a processor busy
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(retry):
		return nil
	}
}

func (a *Answers) complete() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.able&abi.DNSComplete != 0
}

// compare makes the kernel's names those of the zone, whoever wrote them, and follows it from there.
func (a *Answers) compare() (err error) {
	a.zone.Follow(a, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.following = false
		var wanted map[abi.DNSKey]abi.DNSName
		wanted, a.able = a.wanted()
		if err = a.replace(wanted); err != nil {
			a.off()
			return
		}
		a.following = true
	})
	return err
}

// wanted are the rows of all names, as many as there is room for, and what they permit.
func (a *Answers) wanted() (map[abi.DNSKey]abi.DNSName, abi.DNSZoneFlag) {
	rows := map[abi.DNSKey]abi.DNSName{}
	able := abi.DNSAnswer | abi.DNSComplete
	put := func(key abi.DNSKey, row abi.DNSName) {
		if !a.room(len(rows)) {
			able = abi.DNSAnswer
			return
		}
		rows[key] = row
	}
	for _, f := range fixed {
		if key, ok := a.key(f.labels...); ok {
			put(key, abi.DNSName{Flags: uint16(f.flags)})
		} else {
			able = abi.DNSAnswer
		}
	}
	a.zone.Namespaces(func(name string) {
		for _, below := range kinds {
			if key, ok := a.key(name, below); ok {
				put(key, abi.DNSName{})
			}
		}
	})
	var hosts []cluster.Name
	a.zone.Known(func(names []cluster.Name) {
		if key, ok := keyOf(names[0].Wire); ok {
			put(key, rowOf(names[0]))
		}
		hosts = append(hosts, names[1:]...)
	})
	a.names, a.hosts = len(rows), len(hosts)
	for i, name := range hosts {
		if key, ok := keyOf(name.Wire); ok && a.roomForHosts(i) {
			put(key, rowOf(name))
		}
	}
	return rows, able
}

// replace deletes and writes what differs.
func (a *Answers) replace(wanted map[abi.DNSKey]abi.DNSName) error {
	var gone []abi.DNSKey
	have := map[abi.DNSKey]bool{}
	err := a.maps.Names(func(key abi.DNSKey, row abi.DNSName) bool {
		if want, ok := wanted[key]; !ok {
			gone = append(gone, key)
		} else if want == row {
			have[key] = true
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, key := range gone {
		if err := a.maps.DeleteName(key); err != nil {
			return err
		}
	}
	for key, row := range wanted {
		if !have[key] {
			if err := a.maps.PutName(key, row); err != nil {
				return err
			}
		}
	}
	return nil
}

// room says whether another row fits beside so many.
func (a *Answers) room(rows int) bool {
	size := int(a.maps.Capacity(abi.MapRecord))
	return size == 0 || rows < size
}

// roomForHosts keeps a part of the rows for names without which others cannot be denied.
func (a *Answers) roomForHosts(hosts int) bool {
	size := int(a.maps.Capacity(abi.MapRecord))
	return size == 0 || hosts < size/2
}

// Serial implements cluster.Follower.
func (a *Answers) Serial(serial, ttl uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.row.Serial, a.row.Ttl = serial, ttl
	if a.following {
		a.write()
	}
}

// write writes the zone's row.
func (a *Answers) write() {
	if !a.configured {
		return
	}
	row := a.row
	row.Flags = uint32(a.allowed & a.able)
	if row.Flags&uint32(abi.DNSAnswer) == 0 {
		row.Flags = 0
	}
	if err := a.maps.PutZone(row); err != nil {
		a.fail(err)
	}
}

// off stops the kernel's answers.
func (a *Answers) off() {
	if err := a.maps.PutZone(abi.DNSZone{}); err != nil {
		a.logger.Error("the kernel's DNS answers cannot be stopped, and may be out of date", "error", err)
	}
}

// fail stops the kernel's answers, which are no longer right, and has the names compared.
func (a *Answers) fail(err error) {
	a.logger.Warn("the kernel's DNS names are compared anew", "error", fmt.Sprint(err))
	a.following = false
	a.off()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Namespace implements cluster.Follower.
func (a *Answers) Namespace(name string, exists bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, below := range kinds {
		if key, ok := a.key(name, below); ok && a.following {
			a.set(key, abi.DNSName{}, exists, &a.names)
		}
	}
}

// Service implements cluster.Follower. A Service's own name comes first and goes last: below it the kernel denies nothing.
func (a *Answers) Service(before, after []cluster.Name) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := make(map[string]*cluster.Name, len(before))
	for i := range before {
		old[string(before[i].Wire)] = &before[i]
	}
	for _, name := range after {
		was := old[string(name.Wire)]
		delete(old, string(name.Wire))
		a.change(was, &name)
	}
	for i := len(before) - 1; i >= 0; i-- {
		if was := old[string(before[i].Wire)]; was != nil {
			a.change(was, nil)
		}
	}
}

// change writes or deletes one name of a Service, if it differs.
func (a *Answers) change(was, is *cluster.Name) {
	name := is
	if is == nil {
		name = was
	}
	key, ok := keyOf(name.Wire)
	if !ok || !a.following {
		return
	}
	count := &a.hosts
	if name.Service {
		count = &a.names
	}
	switch {
	case is == nil:
		a.set(key, abi.DNSName{}, false, count)
	case was == nil:
		a.set(key, rowOf(*is), true, count)
	default:
		if row := rowOf(*is); row != rowOf(*was) {
			*count--
			a.set(key, row, true, count)
		}
	}
}

// set writes or deletes a row and counts it. An endpoint that there is no room for is the server's, like all below a Service that has
// no row.
func (a *Answers) set(key abi.DNSKey, row abi.DNSName, exists bool, count *int) {
	*count--
	if exists {
		*count += 2
	}
	var err error
	switch {
	case !exists, count == &a.hosts && !a.roomForHosts(a.hosts-1):
		err = a.maps.DeleteName(key)
	case count == &a.names && !a.room(a.names-1+min(a.hosts, int(a.maps.Capacity(abi.MapRecord))/2)):
		err = fmt.Errorf("no room for more than %d names", a.names-1)
	default:
		err = a.maps.PutName(key, row)
	}
	if err != nil {
		a.fail(err)
	}
}
