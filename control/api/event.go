package api

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
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
		ValidateName:             validation.NameIsDNSSubdomain,
		Validate:                 one(func(e *corev1.Event) field.ErrorList { return validateEvent(e, "reportingComponent") }),
		ValidateUpdate:           two(func(e, _ *corev1.Event) field.ErrorList { return validateEvent(e, "reportingComponent") }),
		SelectableFields:         one(eventFields),
		Columns:                  eventColumns(),
		Cells:                    one(eventCells),
	}
}

// eventsV1Resource serves the core group's events in the newer shape. Its hooks see the stored core Event, as upstream's do, but
// the rules for a writer are stricter.
func eventsV1Resource() *Resource {
	r := eventResource()
	r.GroupVersion = eventsv1.SchemeGroupVersion
	r.Validate = one(validateNewEvent)
	r.ValidateUpdate = two(validateNewEventUpdate)
	r.FieldAliases = newFieldAliases()
	r.StoredAs = corev1.SchemeGroupVersion.WithResource("events")
	return r
}

func eventFields(e *corev1.Event) fields.Set {
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         orElse(e.Source.Component, e.ReportingController),
		"type":                           e.Type,
	}
}

// newFieldAliases are the selector keys of the newer event shape, which knows the core shape's keys no more.
func newFieldAliases() map[string]string {
	aliases := map[string]string{"reportingController": "reportingComponent", "source": "", "reportingComponent": ""}
	for key := range eventFields(&corev1.Event{}) {
		if name, ok := strings.CutPrefix(key, "involvedObject."); ok {
			aliases["regarding."+name] = key
			aliases[key] = ""
		}
	}
	return aliases
}

// Lengths that an event of the newer shape may have, in bytes.
const (
	maxEventWord = 128
	maxEventNote = 1024
)

// validateEvent checks what every event must be. Events without eventTime are of the older shape, which is checked less; controller
// is what the request's version calls the reporting controller.
func validateEvent(e *corev1.Event, controller string) field.ErrorList {
	var errs field.ErrorList
	about := e.InvolvedObject.Namespace
	mismatch := field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace")
	if e.EventTime.IsZero() {
		// An event about something without a namespace is in none, or in default, where old clients put it.
		if e.Namespace != about && (about != "" || e.Namespace != metav1.NamespaceDefault) {
			errs = append(errs, mismatch)
		}
		return errs
	}
	if about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		errs = append(errs, mismatch)
	}
	if e.ReportingController == "" {
		errs = append(errs, field.Required(field.NewPath(controller), ""))
	}
	errs = append(errs, checkQualifiedName(field.NewPath(controller), e.ReportingController)...)
	errs = append(errs, checkWord("reportingInstance", e.ReportingInstance)...)
	errs = append(errs, checkWord("action", e.Action)...)
	errs = append(errs, checkWord("reason", e.Reason)...)
	if len(e.Message) > maxEventNote {
		errs = append(errs, tooLong("message", maxEventNote))
	}
	return errs
}

func checkWord(name, value string) field.ErrorList {
	switch {
	case value == "":
		return field.ErrorList{field.Required(field.NewPath(name), "")}
	case len(value) > maxEventWord:
		return field.ErrorList{tooLong(name, maxEventWord)}
	}
	return nil
}

func tooLong(name string, limit int) *field.Error {
	return field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %v characters", limit))
}

// validateNewEvent adds what is asked of writers of the newer shape: the older shape's fields are not theirs.
func validateNewEvent(e *corev1.Event) field.ErrorList {
	errs := append(validateEvent(e, "reportingController"), validateSeries(e.Series)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	for _, old := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()},
		{"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0},
		{"source", e.Source != corev1.EventSource{}},
	} {
		if old.set {
			errs = append(errs, field.Invalid(field.NewPath(old.name), "", "needs to be unset"))
		}
	}
	return errs
}

func validateSeries(s *corev1.EventSeries) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if s.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// validateNewEventUpdate lets a writer of the newer shape change the series and the metadata alone.
func validateNewEventUpdate(e, old *corev1.Event) field.ErrorList {
	errs := validateEvent(e, "reportingController")
	if !equality.Semantic.DeepEqual(e.Series, old.Series) {
		errs = append(errs, validateSeries(e.Series)...)
	}
	for _, f := range []struct {
		name       string
		value, old any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject},
		{"reason", e.Reason, old.Reason},
		{"message", e.Message, old.Message},
		{"source", e.Source, old.Source},
		{"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp},
		{"count", e.Count, old.Count},
		{"type", e.Type, old.Type},
		{"action", e.Action, old.Action},
		{"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, checkImmutable(field.NewPath(f.name), f.value, f.old)...)
	}
	// Clients round the time to microseconds, or send nanoseconds by an old fault.
	if !e.EventTime.Truncate(time.Microsecond).Equal(old.EventTime.Truncate(time.Microsecond)) {
		errs = append(errs, checkImmutable(field.NewPath("eventTime"), e.EventTime, old.EventTime)...)
	}
	return errs
}
