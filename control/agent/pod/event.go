package pod

import (
	"fmt"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// event tells the user something about a pod, or about one of its containers if name is not empty.
func (w *worker) event(p *corev1.Pod, name, kind, reason, message string) {
	ref := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}
	if name != "" {
		list := "containers"
		if isInit(p, name) {
			list = "initContainers"
		}
		ref.FieldPath = fmt.Sprintf("spec.%s{%s}", list, name)
	}
	w.cfg.Recorder.Event(ref, kind, reason, message)
}

// memoryCapacity is the machine's memory in bytes, 0 when it cannot be told.
func memoryCapacity() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
