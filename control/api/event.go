package api

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func eventResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Event",
		Name:                     "events",
		Singular:                 "event",
		ShortNames:               []string{"ev"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.Event{} },
		NewList:                  func() runtime.Object { return &corev1.EventList{} },
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

// eventsV1Resource serves the core group's events in the newer shape. Its hooks see the stored core Event, as upstream's do, but
// the rules for a writer are stricter.
func eventsV1Resource() *Resource {
	r := eventResource()
	r.GroupVersion = eventsv1.SchemeGroupVersion
	r.StoredAs = corev1.SchemeGroupVersion.WithResource("events")
	return r
}
