package admission

import (
	"context"
	"fmt"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/kubernetes"
)

const (
	// defaultAccount is the service account of pods that name none.
	defaultAccount = "default"
	// tokenMount is where a pod finds its token, the cluster's CA and its namespace.
	tokenMount = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenSeconds is how long a token is valid; upstream's hour and a little, by which its own tokens are recognised.
	tokenSeconds = int64(3607)
	// rootCA is the ConfigMap of the cluster's CA, in every namespace.
	rootCA = "kube-root-ca.crt"
	// accountWait bounds the wait for an account of a namespace that was just made.
	accountWait = 2 * time.Second
)

// accounts gives a pod its service account and the volume with its token (upstream's ServiceAccount plugin).
type accounts struct {
	onCreate
	client kubernetes.Interface
}

// Admit implements admission.MutationInterface.
func (p accounts) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := p.find(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
	}
	if mounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, account.ImagePullSecrets...)
	}
	return nil
}

// find reads the account, waiting for one that a controller is about to make. Reads come from the watch cache.
func (p accounts) find(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	get := func(version string) (*corev1.ServiceAccount, error) {
		return p.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{ResourceVersion: version})
	}
	account, err := get("0")
	if !apierrors.IsNotFound(err) {
		return account, err
	}
	if account, err = get(""); !apierrors.IsNotFound(err) {
		return account, err
	}
	// The words of upstream, whose own lookup names the kind in the singular.
	missing := apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)
	if name != defaultAccount {
		return nil, missing
	}
	wait, cancel := context.WithTimeout(ctx, accountWait)
	defer cancel()
	w, werr := p.client.CoreV1().ServiceAccounts(namespace).Watch(wait, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if werr != nil {
		return nil, missing
	}
	defer w.Stop()
	select {
	case e := <-w.ResultChan():
		if account, ok := e.Object.(*corev1.ServiceAccount); ok {
			return account, nil
		}
	case <-wait.Done():
	}
	return nil, missing
}

// mounts says whether the pod wants a token: the pod's word counts before the account's.
func mounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken adds the token's volume and mounts it wherever nothing else is mounted in its place.
func mountToken(pod *corev1.Pod) {
	volume := names.SimpleNameGenerator.GenerateName("kube-api-access-")
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && len(v.Name) > len("kube-api-access-") && v.Name[:len("kube-api-access-")] == "kube-api-access-" {
			volume = v.Name
		}
	}
	used := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if mountedAt(&containers[i], tokenMount) {
				continue
			}
			containers[i].VolumeMounts = append(containers[i].VolumeMounts, corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: tokenMount})
			used = true
		}
	}
	if used && !hasVolume(pod, volume) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(volume))
	}
}

func mountedAt(c *corev1.Container, dir string) bool {
	for _, m := range c.VolumeMounts {
		if path.Clean(m.MountPath) == dir {
			return true
		}
	}
	return false
}

func hasVolume(pod *corev1.Pod, name string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Name == name {
			return true
		}
	}
	return false
}

func tokenVolume(name string) corev1.Volume {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, tokenSeconds
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: rootCA}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
	}}}}
}
