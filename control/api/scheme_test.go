package api

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"net/url"
)

// Every row decodes and encodes through the hub, as requests and storage do.
func TestRowsRoundTrip(t *testing.T) {
	scheme := NewScheme()
	codecs := serializer.NewCodecFactory(scheme)
	for _, r := range Resources() {
		for _, mediaType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf} {
			t.Run(r.GroupVersion.String()+"/"+r.Name+"/"+mediaType, func(t *testing.T) {
				info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
				if !ok {
					t.Fatalf("no serializer for %s", mediaType)
				}
				hub := schema.GroupVersion{Group: r.GroupVersion.Group, Version: runtime.APIVersionInternal}
				codec := codecs.CodecForVersions(info.Serializer, info.Serializer, r.GroupVersion, hub)
				obj := r.New()
				obj.(metav1.Object).SetName("a")
				obj.(metav1.Object).SetLabels(map[string]string{"b": "c"})
				if r.Default != nil {
					r.Default(obj)
				}
				data, err := runtime.Encode(codec, obj)
				if err != nil {
					t.Fatal(err)
				}
				got, err := runtime.Decode(codec, data)
				if err != nil {
					t.Fatal(err)
				}
				got.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
				obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
				if !equality.Semantic.DeepEqual(got, obj) {
					t.Errorf("got %#v, want %#v", got, obj)
				}
				if _, err := runtime.Encode(codec, r.NewList()); err != nil {
					t.Errorf("list: %v", err)
				}
			})
		}
	}
}

func TestEventsConvertBothWays(t *testing.T) {
	scheme := NewScheme()
	in := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Name: "a", Namespace: "b"},
		EventTime:           metav1.NowMicro(),
		Series:              &eventsv1.EventSeries{Count: 3, LastObservedTime: metav1.NowMicro()},
		ReportingController: "c",
		ReportingInstance:   "d",
		Action:              "e",
		Reason:              "f",
		Regarding:           corev1.ObjectReference{Kind: "Pod", Name: "g"},
		Related:             &corev1.ObjectReference{Kind: "Node", Name: "h"},
		Note:                "i",
		Type:                "Normal",
		DeprecatedSource:    corev1.EventSource{Component: "j"},
		DeprecatedCount:     4,
	}
	hub, err := scheme.ConvertToVersion(in, schema.GroupVersion{Group: eventsv1.GroupName, Version: runtime.APIVersionInternal})
	if err != nil {
		t.Fatal(err)
	}
	core, ok := hub.(*corev1.Event)
	if !ok || core.Message != "i" || core.InvolvedObject.Name != "g" || core.Count != 4 || core.Series.Count != 3 {
		t.Fatalf("hub %#v", hub)
	}
	out, err := scheme.ConvertToVersion(core, eventsv1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if !equality.Semantic.DeepEqual(in, out) {
		t.Errorf("got %#v, want %#v", out, in)
	}
}

func TestQueryParametersBecomeOptions(t *testing.T) {
	codec := runtime.NewParameterCodec(NewScheme())
	var log corev1.PodLogOptions
	values := url.Values{"container": {"c"}, "follow": {"true"}, "tailLines": {"5"}, "stream": {"Stdout"}}
	if err := codec.DecodeParameters(values, corev1.SchemeGroupVersion, &log); err != nil {
		t.Fatal(err)
	}
	if log.Container != "c" || !log.Follow || log.TailLines == nil || *log.TailLines != 5 || *log.Stream != "Stdout" || log.LimitBytes != nil {
		t.Errorf("log options %+v", log)
	}
	var exec corev1.PodExecOptions
	if err := codec.DecodeParameters(url.Values{"command": {"a", "b"}, "stdin": {"1"}, "tty": {""}}, corev1.SchemeGroupVersion, &exec); err != nil {
		t.Fatal(err)
	}
	if len(exec.Command) != 2 || !exec.Stdin || !exec.TTY {
		t.Errorf("exec options %+v", exec)
	}
	if err := codec.DecodeParameters(url.Values{"tailLines": {"x"}}, corev1.SchemeGroupVersion, &log); err == nil {
		t.Error("a tail that is no number was accepted")
	}
}
