package datapath

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/datapath/observe"
)

// measure notes a change of an object that Services depend on, which was marked already. One of before and after may be nil.
func (s *services) measure(before, after any) {
	object := after
	if object == nil {
		object = before
	}
	switch object.(type) {
	case *corev1.Service:
		s.programming.Changed(observe.ServiceChange, time.Time{})
	case *discoveryv1.EndpointSlice:
		was, now := triggered(before), triggered(after)
		if now.Equal(was) {
			now = time.Time{}
		}
		s.programming.Changed(observe.EndpointsChange, now)
	}
}

// triggered returns when what led to a slice's last change happened, zero where it does not say.
func triggered(obj any) time.Time {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime])
	if err != nil {
		return time.Time{}
	}
	return t
}

// counts returns how many sets and identities there are.
func (p *policies) counts() (sets, identities int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table.Counts()
}
