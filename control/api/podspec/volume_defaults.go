package podspec

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

func setVolumeDefaults(v *corev1.Volume) {
	if reflect.ValueOf(v.VolumeSource).IsZero() {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch {
	case v.HostPath != nil:
		setIfNil(&v.HostPath.Type, corev1.HostPathUnset)
	case v.Secret != nil:
		setIfNil(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case v.ConfigMap != nil:
		setIfNil(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		setIfNil(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		setFileDefaults(v.DownwardAPI.Items)
	case v.Projected != nil:
		setProjectedDefaults(v.Projected)
	case v.Image != nil:
		setIfEmpty(&v.Image.PullPolicy, pullPolicy(v.Image.Reference))
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		spec := &v.Ephemeral.VolumeClaimTemplate.Spec
		setIfNil(&spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		truncateResources(spec.Resources.Limits)
		truncateResources(spec.Resources.Requests)
	case v.ISCSI != nil:
		setIfEmpty(&v.ISCSI.ISCSIInterface, "default")
	case v.RBD != nil:
		setIfEmpty(&v.RBD.RBDPool, "rbd")
		setIfEmpty(&v.RBD.RadosUser, "admin")
		setIfEmpty(&v.RBD.Keyring, "/etc/ceph/keyring")
	case v.ScaleIO != nil:
		setIfEmpty(&v.ScaleIO.StorageMode, "ThinProvisioned")
		setIfEmpty(&v.ScaleIO.FSType, "xfs")
	case v.AzureDisk != nil:
		setAzureDiskDefaults(v.AzureDisk)
	}
}

func setProjectedDefaults(p *corev1.ProjectedVolumeSource) {
	setIfNil(&p.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
	for _, s := range p.Sources {
		if s.DownwardAPI != nil {
			setFileDefaults(s.DownwardAPI.Items)
		}
		if s.ServiceAccountToken != nil {
			setIfNil(&s.ServiceAccountToken.ExpirationSeconds, 3600)
		}
	}
}

func setFileDefaults(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		if files[i].FieldRef != nil {
			setIfEmpty(&files[i].FieldRef.APIVersion, "v1")
		}
	}
}

func setAzureDiskDefaults(d *corev1.AzureDiskVolumeSource) {
	setIfNil(&d.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	setIfNil(&d.Kind, corev1.AzureSharedBlobDisk)
	setIfNil(&d.FSType, "ext4")
	setIfNil(&d.ReadOnly, false)
}
