package api

import (
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func TestCells(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "x", CreationTimestamp: metav1.NewTime(time.Now().Add(-3 * time.Hour))}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	pod := template()
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "d", Image: "j"})
	for _, c := range []struct {
		name string
		row  *Resource
		obj  runtime.Object
		want []any
	}{
		{"deployment", deploymentResource(), &appsv1.Deployment{ObjectMeta: meta,
			Spec:   appsv1.DeploymentSpec{Replicas: ptr.To[int32](3), Selector: selector, Template: pod},
			Status: appsv1.DeploymentStatus{ReadyReplicas: 2, UpdatedReplicas: 3, AvailableReplicas: 1},
		}, []any{"x", "2/3", int64(3), int64(1), "3h", "c,d", "i,j", "app=a"}},
		{"replica set", replicaSetResource(), &appsv1.ReplicaSet{ObjectMeta: meta,
			Spec:   appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](3), Selector: selector, Template: pod},
			Status: appsv1.ReplicaSetStatus{Replicas: 2, ReadyReplicas: 1},
		}, []any{"x", int64(3), int64(2), int64(1), "3h", "c,d", "i,j", "app=a"}},
		{"node port", serviceResource(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: "NodePort",
			ClusterIPs: []string{"10.96.0.7"}, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080, Protocol: "TCP"}, {Port: 53, Protocol: "UDP"}},
			Selector: map[string]string{"app": "a"}}}, []any{"x", "NodePort", "10.96.0.7", "<none>", "80:30080/TCP,53/UDP", "3h", "app=a"}},
		{"headless", serviceResource(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{"None"}}},
			[]any{"x", "ClusterIP", "None", "<none>", "<none>", "3h", "<none>"}},
		{"load balancer that waits", serviceResource(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: "LoadBalancer"}},
			[]any{"x", "LoadBalancer", "<none>", "<pending>", "<none>", "3h", "<none>"}},
		{"external name", serviceResource(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: "ExternalName", ExternalName: "a.b"}},
			[]any{"x", "ExternalName", "<none>", "a.b", "<none>", "3h", "<none>"}},
		{"node", nodeResource(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "x", CreationTimestamp: meta.CreationTimestamp, Labels: map[string]string{"node-role.kubernetes.io/b": "", "kubernetes.io/role": "a"}},
			Spec:       corev1.NodeSpec{Unschedulable: true},
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "True"}},
				Addresses:  []corev1.NodeAddress{{Type: "InternalIP", Address: "10.0.0.1"}},
				NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.37.2", KernelVersion: "6.1", Architecture: "amd64"},
			},
		}, []any{"x", "Ready,SchedulingDisabled", "a,b", "3h", "v1.37.2", "10.0.0.1", "<none>", "<unknown>", "6.1 (amd64)", "<unknown>"}},
		{"node without conditions", nodeResource(), &corev1.Node{ObjectMeta: meta},
			[]any{"x", "Unknown", "<none>", "3h", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"}},
		{"endpoints", endpointsResource(), &corev1.Endpoints{ObjectMeta: meta, Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}}, Ports: []corev1.EndpointPort{{Port: 80}, {Port: 81}}}}},
			[]any{"x", "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...", "3h"}},
		{"no endpoints", endpointsResource(), &corev1.Endpoints{ObjectMeta: meta}, []any{"x", "<none>", "3h"}},
		{"slice", endpointSliceResource(), &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: "IPv4",
			Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}, {}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}},
			[]any{"x", "IPv4", "80,*", "10.0.0.1", "3h"}},
		{"empty slice", endpointSliceResource(), &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: "IPv4"},
			[]any{"x", "IPv4", "<unset>", "<unset>", "3h"}},
		{"namespace", namespaceResource(), &corev1.Namespace{ObjectMeta: meta, Status: corev1.NamespaceStatus{Phase: "Active"}}, []any{"x", "Active", "3h"}},
		{"config map", configMapResource(), &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": ""}, BinaryData: map[string][]byte{"b": nil}},
			[]any{"x", int64(2), "3h"}},
		{"secret", secretResource(), &corev1.Secret{ObjectMeta: meta, Type: "Opaque"}, []any{"x", "Opaque", int64(0), "3h"}},
		{"service account", serviceAccountResource(), &corev1.ServiceAccount{ObjectMeta: meta}, []any{"x", "3h"}},
		{"lease", leaseResource(), &coordinationv1.Lease{ObjectMeta: meta, Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("h")}}, []any{"x", "h", "3h"}},
		{"older event", eventResource(), &corev1.Event{ObjectMeta: meta, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p"},
			FirstTimestamp: meta.CreationTimestamp, LastTimestamp: metav1.NewTime(time.Now().Add(-time.Hour)), Count: 4,
			Source: corev1.EventSource{Component: "c", Host: "h"}, Type: "Normal", Reason: "R", Message: " m\n"},
			[]any{"60m", "Normal", "R", "pod/p", "", "c, h", "m", "3h", int64(4), "x"}},
		{"newer event", eventResource(), &corev1.Event{ObjectMeta: meta, InvolvedObject: corev1.ObjectReference{Kind: "Node"},
			EventTime: metav1.NewMicroTime(meta.CreationTimestamp.Time), ReportingController: "c"},
			[]any{"3h", "", "", "node", "", "c", "", "3h", int64(1), "x"}},
		{"role", roleResource(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "x", CreationTimestamp: metav1.Unix(0, 0)}}, []any{"x", "1970-01-01T00:00:00Z"}},
		{"binding", roleBindingResource(), &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r"},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "u"}, {Kind: "User", Name: "v"}, {Kind: "ServiceAccount", Namespace: "n", Name: "s"}}},
			[]any{"x", "Role/r", "3h", "u, v", "", "n/s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.row.Cells(c.obj); !slices.Equal(got, c.want) {
				t.Errorf("\n got %v\nwant %v", got, c.want)
			}
		})
	}
}
