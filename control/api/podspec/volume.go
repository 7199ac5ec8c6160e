package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumes are the valid volumes of a pod, by name.
type volumes map[string]*corev1.Volume

// validateVolumes checks the volumes of a pod, whose name is empty for a template, and returns the valid ones.
func validateVolumes(vols []corev1.Volume, podName string, path *field.Path) (volumes, field.ErrorList) {
	var errs field.ErrorList
	claims := sets.New[string]()
	for _, v := range vols {
		if v.Ephemeral != nil && podName != "" {
			claims.Insert(podName + "-" + v.Name)
		}
	}
	valid := volumes{}
	for i := range vols {
		v, at := &vols[i], path.Index(i)
		own := validateSource(v, at)
		if v.Name == "" {
			own = append(own, field.Required(at.Child("name"), ""))
		} else {
			own = append(own, label(at.Child("name"), v.Name)...)
		}
		if valid[v.Name] != nil {
			own = append(own, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(own) == 0 {
			valid[v.Name] = v
		}
		errs = append(errs, own...)
		if c := v.PersistentVolumeClaim; c != nil && claims.Has(c.ClaimName) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), c.ClaimName, "must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return valid, errs
}

// validateSource checks that a volume has one source, and that source.
func validateSource(v *corev1.Volume, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	found := false
	for _, s := range sourcesOf(&v.VolumeSource) {
		switch {
		case !s.set:
		case found:
			errs = append(errs, field.Forbidden(path.Child(s.name), "may not specify more than 1 volume type"))
		default:
			found = true
			if s.validate != nil {
				errs = append(errs, s.validate(path.Child(s.name))...)
			}
		}
	}
	if !found {
		errs = append(errs, field.Required(path, "must specify a volume type"))
	}
	return errs
}

// source is one of the kinds of volumes: whether a volume is of that kind, and the check of its fields, if there is one.
type source struct {
	name     string
	set      bool
	validate func(*field.Path) field.ErrorList
}

// sourcesOf lists all kinds in upstream's order, which decides which of two is reported.
func sourcesOf(s *corev1.VolumeSource) []source {
	need := func(value func() string, name string) func(*field.Path) field.ErrorList {
		return func(p *field.Path) field.ErrorList { return required(p.Child(name), value()) }
	}
	return []source{
		{"emptyDir", s.EmptyDir != nil, func(p *field.Path) field.ErrorList { return validateEmptyDir(s.EmptyDir, p) }},
		{"hostPath", s.HostPath != nil, func(p *field.Path) field.ErrorList { return validateHostPath(s.HostPath, p) }},
		{"gitRepo", s.GitRepo != nil, need(func() string { return s.GitRepo.Repository }, "repository")},
		{"gcePersistentDisk", s.GCEPersistentDisk != nil, need(func() string { return s.GCEPersistentDisk.PDName }, "pdName")},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil, need(func() string { return s.AWSElasticBlockStore.VolumeID }, "volumeID")},
		{"secret", s.Secret != nil, func(p *field.Path) field.ErrorList {
			return validateKeyed("secretName", s.Secret.SecretName, s.Secret.DefaultMode, s.Secret.Items, p)
		}},
		{"nfs", s.NFS != nil, func(p *field.Path) field.ErrorList { return validateNFS(s.NFS, p) }},
		{"iscsi", s.ISCSI != nil, need(func() string { return s.ISCSI.TargetPortal }, "targetPortal")},
		{"glusterfs", s.Glusterfs != nil, need(func() string { return s.Glusterfs.EndpointsName }, "endpoints")},
		{"flocker", s.Flocker != nil, nil},
		{"persistentVolumeClaim", s.PersistentVolumeClaim != nil, need(func() string { return s.PersistentVolumeClaim.ClaimName }, "claimName")},
		{"rbd", s.RBD != nil, need(func() string { return s.RBD.RBDImage }, "image")},
		{"cinder", s.Cinder != nil, need(func() string { return s.Cinder.VolumeID }, "volumeID")},
		{"cephfs", s.CephFS != nil, nil},
		{"quobyte", s.Quobyte != nil, need(func() string { return s.Quobyte.Registry }, "registry")},
		{"downwardAPI", s.DownwardAPI != nil, func(p *field.Path) field.ErrorList {
			return append(fileMode(p.Child("defaultMode"), s.DownwardAPI.DefaultMode), validateFiles(s.DownwardAPI.Items, p)...)
		}},
		{"fc", s.FC != nil, nil},
		{"flexVolume", s.FlexVolume != nil, need(func() string { return s.FlexVolume.Driver }, "driver")},
		{"configMap", s.ConfigMap != nil, func(p *field.Path) field.ErrorList {
			return validateKeyed("name", s.ConfigMap.Name, s.ConfigMap.DefaultMode, s.ConfigMap.Items, p)
		}},
		{"azureFile", s.AzureFile != nil, need(func() string { return s.AzureFile.SecretName }, "secretName")},
		{"vsphereVolume", s.VsphereVolume != nil, need(func() string { return s.VsphereVolume.VolumePath }, "volumePath")},
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, need(func() string { return s.PhotonPersistentDisk.PdID }, "pdID")},
		{"portworxVolume", s.PortworxVolume != nil, need(func() string { return s.PortworxVolume.VolumeID }, "volumeID")},
		{"azureDisk", s.AzureDisk != nil, need(func() string { return s.AzureDisk.DiskName }, "diskName")},
		{"storageos", s.StorageOS != nil, need(func() string { return s.StorageOS.VolumeName }, "volumeName")},
		{"projected", s.Projected != nil, func(p *field.Path) field.ErrorList { return validateProjected(s.Projected, p) }},
		{"scaleIO", s.ScaleIO != nil, need(func() string { return s.ScaleIO.Gateway }, "gateway")},
		{"csi", s.CSI != nil, func(p *field.Path) field.ErrorList { return validateCSI(s.CSI, p) }},
		{"ephemeral", s.Ephemeral != nil, func(p *field.Path) field.ErrorList { return validateEphemeral(s.Ephemeral, p) }},
		{"image", s.Image != nil, func(p *field.Path) field.ErrorList { return validateImage(s.Image, p) }},
	}
}

func validateEmptyDir(e *corev1.EmptyDirVolumeSource, path *field.Path) field.ErrorList {
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		return field.ErrorList{field.Forbidden(path.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
	}
	return nil
}

func validateHostPath(h *corev1.HostPathVolumeSource, path *field.Path) field.ErrorList {
	if h.Path == "" {
		return required(path.Child("path"), "")
	}
	errs := noBacksteps(path.Child("path"), h.Path)
	if h.Type == nil {
		return errs
	}
	return append(errs, supportedOnly(path.Child("type"), *h.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
		corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
}

func validateNFS(n *corev1.NFSVolumeSource, path *field.Path) field.ErrorList {
	errs := append(required(path.Child("server"), n.Server), required(path.Child("path"), n.Path)...)
	if n.Path == "" || n.Path[0] != '/' {
		errs = append(errs, field.Invalid(path.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

// validateKeyed checks a volume of the keys of a Secret or ConfigMap.
func validateKeyed(nameField, name string, mode *int32, items []corev1.KeyToPath, path *field.Path) field.ErrorList {
	errs := append(required(path.Child(nameField), name), fileMode(path.Child("defaultMode"), mode)...)
	for i := range items {
		errs = append(errs, validateKeyPath(&items[i], path.Child("items").Index(i))...)
	}
	return errs
}

func validateKeyPath(k *corev1.KeyToPath, path *field.Path) field.ErrorList {
	errs := append(required(path.Child("key"), k.Key), required(path.Child("path"), k.Path)...)
	errs = append(errs, nonReserved(path.Child("path"), k.Path)...)
	return append(errs, fileMode(path.Child("mode"), k.Mode)...)
}

func validateFiles(files []corev1.DownwardAPIVolumeFile, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range files {
		errs = append(errs, required(path.Child("path"), f.Path)...)
		errs = append(errs, nonReserved(path.Child("path"), f.Path)...)
		switch {
		case f.FieldRef != nil:
			errs = append(errs, validateFieldRef(f.FieldRef, fileFields, path.Child("fieldRef"))...)
			if f.ResourceFieldRef != nil {
				errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
			}
		case f.ResourceFieldRef != nil:
			errs = append(errs, validateResourceFieldRef(f.ResourceFieldRef, true, path.Child("resourceFieldRef"))...)
		default:
			errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, fileMode(path.Child("mode"), f.Mode)...)
	}
	return errs
}

func validateCSI(c *corev1.CSIVolumeSource, path *field.Path) field.ErrorList {
	errs := required(path.Child("driver"), c.Driver)
	if ref := c.NodePublishSecretRef; ref != nil {
		errs = append(errs, requiredSubdomain(path.Child("nodePublishSecretRef", "name"), ref.Name)...)
	}
	return errs
}

func validateEphemeral(e *corev1.EphemeralVolumeSource, path *field.Path) field.ErrorList {
	if e.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(path.Child("volumeClaimTemplate"), "")}
	}
	spec, at := &e.VolumeClaimTemplate.Spec, path.Child("volumeClaimTemplate", "spec")
	var errs field.ErrorList
	if len(spec.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	if _, ok := spec.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(at.Child("resources").Key(string(corev1.ResourceStorage)), ""))
	}
	return errs
}

func validateImage(i *corev1.ImageVolumeSource, path *field.Path) field.ErrorList {
	return append(required(path.Child("reference"), i.Reference),
		oneOf(path.Child("pullPolicy"), i.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
}
