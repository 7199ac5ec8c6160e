package api

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func event(change func(*corev1.Event)) *corev1.Event {
	e := &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Name: "e", Namespace: "n"},
		InvolvedObject:      corev1.ObjectReference{Kind: "Pod", Namespace: "n", Name: "p"},
		EventTime:           metav1.NewMicroTime(time.Unix(1000, 0)),
		ReportingController: "a.b/c",
		ReportingInstance:   "i",
		Action:              "Do",
		Reason:              "Why",
		Type:                corev1.EventTypeNormal,
	}
	change(e)
	return e
}

func TestValidateEvent(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*corev1.Event)
		want   []string
	}{
		{"valid", func(*corev1.Event) {}, nil},
		{"older shape", func(e *corev1.Event) { e.EventTime, e.ReportingController, e.Action = metav1.MicroTime{}, "", "" }, nil},
		{"older shape, other namespace", func(e *corev1.Event) { e.EventTime, e.Namespace = metav1.MicroTime{}, "m" },
			[]string{`involvedObject.namespace: Invalid value: "n": does not match event.namespace`}},
		{"no controller", func(e *corev1.Event) { e.ReportingController = "" },
			[]string{"reportingComponent: Required value", `reportingComponent: Invalid value: "": name part must be non-empty`,
				`reportingComponent: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`}},
		{"long", func(e *corev1.Event) { e.Action, e.Message = strings.Repeat("a", 129), strings.Repeat("a", 1025) },
			[]string{`action: Invalid value: "": can have at most 128 characters`, `message: Invalid value: "": can have at most 1024 characters`}},
	} {
		t.Run(c.name, func(t *testing.T) { errorTexts(t, validateEvent(event(c.change), "reportingComponent"), c.want...) })
	}
}

func TestValidateNewEvent(t *testing.T) {
	e := event(func(e *corev1.Event) {
		e.Type, e.Count, e.Source.Host = "X", 1, "h"
		e.Series = &corev1.EventSeries{Count: 1}
	})
	errorTexts(t, validateNewEvent(e),
		`series.count: Invalid value: "": should be at least 2`,
		"series.lastObservedTime: Required value",
		`type: Invalid value: "": has invalid value: X`,
		`count: Invalid value: "": needs to be unset`,
		`source: Invalid value: "": needs to be unset`)
	changed := event(func(e *corev1.Event) { e.Reason = "Other" })
	errorTexts(t, validateNewEventUpdate(changed, event(func(*corev1.Event) {})), `reason: Invalid value: "Other": field is immutable`)
}
