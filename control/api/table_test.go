package api

import (
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// errorTexts compares errors with the texts that upstream has for them.
func errorTexts(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	if !slices.Equal(got, want) {
		t.Errorf("errors\n got %q\nwant %q", got, want)
	}
}

func TestRowsAreComplete(t *testing.T) {
	scheme := NewScheme()
	seen := map[string]bool{}
	for _, r := range Resources() {
		id := r.GroupVersion.String() + "/" + r.Name
		t.Run(id, func(t *testing.T) {
			if seen[id] {
				t.Error("there is another row for it")
			}
			seen[id] = true
			if r.Kind == "" || r.Name == "" || r.Singular == "" || r.New == nil || r.NewList == nil || r.ValidateName == nil {
				t.Fatalf("row lacks something: %+v", r)
			}
			if _, ok := r.New().(metav1.Object); !ok {
				t.Errorf("%T has no metadata", r.New())
			}
			if !scheme.Recognizes(r.GroupVersion.WithKind(r.Kind)) || !scheme.Recognizes(r.GroupVersion.WithKind(r.Kind+"List")) {
				t.Error("the scheme does not know the kind or its list")
			}
			if (r.Columns == nil) != (r.Cells == nil) {
				t.Fatal("columns without cells, or cells without columns")
			}
			if cells := r.Cells(r.New()); len(cells) != len(r.Columns) {
				t.Errorf("%d cells in %d columns", len(cells), len(r.Columns))
			}
			if !r.HasStatus && (r.PrepareForStatusUpdate != nil || r.ValidateStatusUpdate != nil) {
				t.Error("hooks for a status that is not served")
			}
		})
	}
}

func TestDefaultsAreIdempotent(t *testing.T) {
	for _, r := range Resources() {
		if r.Default == nil {
			continue
		}
		once := r.New()
		r.Default(once)
		twice := once.DeepCopyObject()
		r.Default(twice)
		if !reflect.DeepEqual(once, twice) {
			t.Errorf("%s: a second defaulting changed\n%+v\n to\n%+v", r.Name, once, twice)
		}
	}
}

// A new object of a name, defaulted, must pass hooks without a panic, whatever they say of it.
func TestHooksTakeEmptyObjects(t *testing.T) {
	for _, r := range Resources() {
		fresh := func() runtime.Object {
			obj := r.New()
			if r.Default != nil {
				r.Default(obj)
			}
			return obj
		}
		if r.PrepareForCreate != nil {
			r.PrepareForCreate(fresh())
		}
		for _, prepare := range []func(obj, old runtime.Object){r.PrepareForUpdate, r.PrepareForStatusUpdate} {
			if prepare != nil {
				prepare(fresh(), fresh())
			}
		}
		if r.Validate != nil {
			r.Validate(fresh())
			r.Validate(r.New())
		}
		for _, validate := range []func(obj, old runtime.Object) field.ErrorList{r.ValidateUpdate, r.ValidateStatusUpdate} {
			if validate != nil {
				validate(fresh(), fresh())
			}
		}
		if r.Warnings != nil {
			r.Warnings(fresh())
		}
	}
}

func TestFieldSelectors(t *testing.T) {
	scheme := NewScheme()
	for _, c := range []struct {
		group, version, kind, label string
		want                        string
		err                         string
	}{
		{"", "v1", "Pod", "spec.nodeName", "spec.nodeName", ""},
		{"", "v1", "Pod", "spec.host", "spec.nodeName", ""},
		{"", "v1", "Pod", "metadata.namespace", "metadata.namespace", ""},
		{"", "v1", "Pod", "spec.x", "", "field label not supported: spec.x"},
		{"", "v1", "Node", "metadata.namespace", "", "field label not supported: metadata.namespace"},
		{"", "v1", "Namespace", "name", "", "field label not supported: name"},
		{"", "v1", "Namespace", "status.phase", "status.phase", ""},
		{"events.k8s.io", "v1", "Event", "regarding.name", "involvedObject.name", ""},
		{"events.k8s.io", "v1", "Event", "involvedObject.name", "", "field label not supported: involvedObject.name"},
		{"", "v1", "Event", "involvedObject.name", "involvedObject.name", ""},
		{"", "v1", "ConfigMap", "metadata.name", "metadata.name", ""},
		{"", "v1", "ConfigMap", "data", "", `"data" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{"apps", "v1", "Deployment", "metadata.name", "metadata.name", ""},
	} {
		got, _, err := scheme.ConvertFieldLabel(schema.GroupVersionKind{Group: c.group, Version: c.version, Kind: c.kind}, c.label, "x")
		if got != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s %s: %q, %v", c.kind, c.label, got, err)
		}
	}
}
