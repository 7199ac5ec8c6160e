package podspec

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"
)

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{}
	p.Name, p.Namespace = "web", "default"
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "nginx"}}
	change(p)
	SetPodDefaults(p)
	return p
}

func TestValidatePod(t *testing.T) {
	tests := []struct {
		name   string
		change func(*corev1.Pod)
		want   []string
	}{
		{"smallest", func(*corev1.Pod) {}, nil},
		{"no containers", func(p *corev1.Pod) { p.Spec.Containers = nil }, []string{"spec.containers: Required value"}},
		{"no image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "" }, []string{"spec.containers[0].image: Required value"}},
		{"volume not there", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		}, []string{`spec.containers[0].volumeMounts[0].name: Not found: "v"`}},
		{"request above limit", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
				Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}, Limits: corev1.ResourceList{"cpu": resource.MustParse("1")}}
		}, []string{`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`}},
		{"duplicate port name", func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "a", ContainerPort: 1}, {Name: "a", ContainerPort: 2}}
		}, []string{`spec.containers[0].ports[1].name: Duplicate value: "a"`}},
		{"probe without handler", func(p *corev1.Pod) { p.Spec.Containers[0].LivenessProbe = &corev1.Probe{} },
			[]string{"spec.containers[0].livenessProbe: Required value: must specify a handler type"}},
		{"probe of init container", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "i", ReadinessProbe: &corev1.Probe{
				ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}}}}
		}, []string{"spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"}},
		{"restart policy", func(p *corev1.Pod) { p.Spec.RestartPolicy = "Sometimes" },
			[]string{`spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"`}},
		{"two volume types", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
				EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		}, []string{"spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"}},
		{"bad overhead", func(p *corev1.Pod) { p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("-1")} },
			[]string{`spec.overhead[cpu]: Invalid value: "-1": must be greater than or equal to 0`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, err := range ValidatePod(pod(test.change)) {
				got = append(got, err.Error())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestValidatePodUpdate(t *testing.T) {
	old := pod(func(*corev1.Pod) {})
	if errs := ValidatePodUpdate(pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "nginx:2", corev1.PullAlways
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}), old); len(errs) > 0 {
		t.Errorf("image and toleration: %v", errs)
	}
	errs := ValidatePodUpdate(pod(func(p *corev1.Pod) { p.Spec.Hostname = "x" }), old)
	if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,") {
		t.Errorf("hostname: %v", errs)
	}
}

func TestQOSClass(t *testing.T) {
	list := corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")}
	for want, r := range map[corev1.PodQOSClass]corev1.ResourceRequirements{
		corev1.PodQOSBestEffort: {},
		corev1.PodQOSBurstable:  {Requests: list},
		corev1.PodQOSGuaranteed: {Limits: list},
	} {
		if got := QOSClass(pod(func(p *corev1.Pod) { p.Spec.Containers[0].Resources = r })); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "host:5000/nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways,
		"nginx:1.2": corev1.PullIfNotPresent, "nginx@sha256:00": corev1.PullIfNotPresent, "": corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%q: got %s, want %s", image, got, want)
		}
	}
}

// TestDefaultsIdempotent fills pods at random: a second defaulting must change nothing, and nothing may panic.
func TestDefaultsIdempotent(t *testing.T) {
	filler := randfill.NewWithSeed(1).NilChance(0.5).NumElements(0, 2).MaxDepth(12)
	for range 300 {
		p := &corev1.Pod{}
		filler.Fill(&p.Spec)
		filler.Fill(&p.Status)
		SetPodDefaults(p)
		once := p.DeepCopy()
		SetPodDefaults(p)
		if !reflect.DeepEqual(p, once) {
			t.Fatalf("second defaulting changed the pod")
		}
		ValidatePod(p)
		QOSClass(p)
	}
}
