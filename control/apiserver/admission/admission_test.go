package admission

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/fake"
)

func request(op admission.Operation, resource, subresource string, obj, old runtime.Object, by string) admission.Attributes {
	name := ""
	for _, o := range []runtime.Object{obj, old} {
		if m, ok := o.(metav1.Object); ok && name == "" {
			name = m.GetName()
		}
	}
	gvr := corev1.SchemeGroupVersion.WithResource(resource)
	return admission.NewAttributesRecord(obj, old, schema.GroupVersionKind{}, "ns", name, gvr, subresource, op, nil, false,
		&user.DefaultInfo{Name: by, Groups: []string{nodesGroup}})
}

func pod(node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c"}}}}
}

func account(name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func TestAccounts(t *testing.T) {
	no := false
	closed := account("closed")
	closed.AutomountServiceAccountToken = &no
	p := accounts{client: fake.NewClientset(account("default"), closed)}
	admit := func(p accounts, pod *corev1.Pod) error {
		return p.Admit(context.Background(), request(admission.Create, "pods", "", pod, nil, "u"), nil)
	}

	got := pod("")
	if err := admit(p, got); err != nil {
		t.Fatal(err)
	}
	if got.Spec.ServiceAccountName != "default" || len(got.Spec.Volumes) != 1 || got.Spec.Containers[0].VolumeMounts[0].MountPath != tokenMount ||
		got.Spec.Containers[0].VolumeMounts[0].Name != got.Spec.Volumes[0].Name || len(got.Spec.Volumes[0].Projected.Sources) != 3 {
		t.Errorf("%+v", got.Spec)
	}

	off := pod("")
	off.Spec.ServiceAccountName = "closed"
	if err := admit(p, off); err != nil || len(off.Spec.Volumes) != 0 {
		t.Errorf("an account without tokens: %v, %v", err, off.Spec.Volumes)
	}

	missing := pod("")
	missing.Spec.ServiceAccountName = "gone"
	if err := admit(p, missing); err == nil || !strings.Contains(err.Error(), `error looking up service account ns/gone: serviceaccount "gone" not found`) {
		t.Errorf("a missing account: %v", err)
	}
}

func TestTolerationsAndPriority(t *testing.T) {
	got := pod("")
	got.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
	a := request(admission.Create, "pods", "", got, nil, "u")
	for _, p := range []admission.MutationInterface{tolerations{}, priorities{}} {
		if err := p.Admit(context.Background(), a, nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(got.Spec.Tolerations) != 2 || got.Spec.Tolerations[1].Key != corev1.TaintNodeUnreachable || *got.Spec.Tolerations[1].TolerationSeconds != 300 {
		t.Errorf("%+v", got.Spec.Tolerations)
	}
	if *got.Spec.Priority != 0 || *got.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("%+v", got.Spec)
	}
	unknown := pod("")
	unknown.Spec.PriorityClassName = "gone"
	if err := (priorities{}).Admit(context.Background(), request(admission.Create, "pods", "", unknown, nil, "u"), nil); err == nil {
		t.Error("an unknown class is taken")
	}
}
