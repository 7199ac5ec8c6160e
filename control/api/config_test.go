package api

import (
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestNamespace(t *testing.T) {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	prepareNamespace(n)
	if n.Status.Phase != corev1.NamespaceActive || len(n.Spec.Finalizers) != 1 || n.Labels[corev1.LabelMetadataName] != "a" {
		t.Errorf("prepared %+v", n)
	}
	n.Spec.Finalizers = append(n.Spec.Finalizers, "x", "example.com/y")
	errorTexts(t, validateNamespace(n), `spec.finalizers: Invalid value: "x": name is neither a standard finalizer name nor is it fully qualified`)
	errorTexts(t, ValidateNamespaceFinalizers(n), `spec.finalizers[1]: Invalid value: "x": name is neither a standard finalizer name nor is it fully qualified`)
	n.Status.Phase = corev1.NamespaceTerminating
	errorTexts(t, validateNamespaceStatus(n, n), "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty")
}

func TestConfigMap(t *testing.T) {
	for _, c := range []struct {
		name string
		in   corev1.ConfigMap
		want []string
	}{
		{"valid", corev1.ConfigMap{Data: map[string]string{"a.b-c_D": ""}}, nil},
		{"key", corev1.ConfigMap{Data: map[string]string{"a b": ""}},
			[]string{`data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`}},
		{"both bags", corev1.ConfigMap{Data: map[string]string{"a": ""}, BinaryData: map[string][]byte{"a": nil}},
			[]string{`data[a]: Invalid value: "a": duplicate of key present in binaryData`}},
		{"size", corev1.ConfigMap{Data: map[string]string{"a": strings.Repeat("x", maxDataSize+1)}},
			[]string{"[]: Too long: may not be more than 1048576 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) { errorTexts(t, validateConfigMap(&c.in), c.want...) })
	}
	old := &corev1.ConfigMap{Immutable: ptr.To(true), Data: map[string]string{"a": "1"}}
	errorTexts(t, validateConfigMapUpdate(&corev1.ConfigMap{Data: map[string]string{"a": "2"}}, old),
		"immutable: Forbidden: field is immutable when `immutable` is set",
		"data: Forbidden: field is immutable when `immutable` is set")
}

func TestSecret(t *testing.T) {
	s := &corev1.Secret{StringData: map[string]string{"a": "new"}, Data: map[string][]byte{"a": []byte("old"), "b": []byte("kept")}}
	defaultSecret(s)
	if s.Type != corev1.SecretTypeOpaque || s.StringData != nil || string(s.Data["a"]) != "new" || string(s.Data["b"]) != "kept" {
		t.Errorf("defaulted %+v", s)
	}
	for _, c := range []struct {
		name string
		in   corev1.Secret
		want []string
	}{
		{"token without an account", corev1.Secret{Type: corev1.SecretTypeServiceAccountToken},
			[]string{"metadata.annotations[kubernetes.io/service-account.name]: Required value"}},
		{"docker config", corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{".dockerconfigjson": []byte("{")}},
			[]string{`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": unexpected end of JSON input`}},
		{"basic auth", corev1.Secret{Type: corev1.SecretTypeBasicAuth}, []string{"data[username]: Required value", "data[password]: Required value"}},
		{"ssh", corev1.Secret{Type: corev1.SecretTypeSSHAuth}, []string{"data[ssh-privatekey]: Required value"}},
		{"tls", corev1.Secret{Type: corev1.SecretTypeTLS}, []string{"data[tls.crt]: Required value", "data[tls.key]: Required value"}},
	} {
		t.Run(c.name, func(t *testing.T) { errorTexts(t, validateSecret(&c.in), c.want...) })
	}
	errorTexts(t, validateSecretUpdate(&corev1.Secret{Type: "a"}, &corev1.Secret{Type: "b"}), `type: Invalid value: "a": field is immutable`)
}

func TestLease(t *testing.T) {
	l := &coordinationv1.Lease{}
	l.Spec.LeaseDurationSeconds = ptr.To[int32](0)
	l.Spec.LeaseTransitions = ptr.To[int32](-1)
	l.Spec.PreferredHolder = ptr.To("a")
	errorTexts(t, validateLease(l),
		"spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
		"spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
		"spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined")
}
