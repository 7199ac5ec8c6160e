package datapath

import (
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/reconcile"
	"github.com/skep-io/skep/datapath/translate"
)

// serviceWarnings tells the owners of Services what this node cannot do for them, once for each cause. It is for one goroutine.
type serviceWarnings struct {
	nodeName string
	services corelisters.ServiceLister
	recorder record.EventRecorder // nil: none
	logger   *slog.Logger
	// conditions say in the Services' status what this node lacks.
	conditions *conditions

	// lacking and misread are what was told, of those that still have the fault.
	lacking, misread map[reconcile.Owner]string
}

func newServiceWarnings(cfg Config) *serviceWarnings {
	return &serviceWarnings{
		nodeName:   cfg.NodeName,
		services:   cfg.Informers.Core().V1().Services().Lister(),
		recorder:   cfg.Events,
		logger:     cfg.Logger,
		conditions: newConditions(cfg),
		lacking:    map[reconcile.Owner]string{},
		misread:    map[reconcile.Owner]string{},
	}
}

// update looks at the Services that changed, and at those of which the kernel could not take all.
func (w *serviceWarnings) update(changed map[reconcile.Owner]struct{}, lacking map[reconcile.Owner]error) {
	for owner := range changed {
		var message string
		if svc, err := w.services.Services(owner.Namespace).Get(owner.Name); err == nil {
			message = translate.Misread(svc)
		}
		w.tell(w.misread, owner, "InvalidAnnotation", message)
		if lacking[owner] == nil {
			w.conditions.update(owner, "")
		}
	}
	for owner, err := range lacking {
		w.tell(w.lacking, owner, "NotProgrammed", fmt.Sprintf("Node %s lacks some of the Service: %v", w.nodeName, err))
		w.conditions.update(owner, err.Error())
	}
	for owner := range w.lacking {
		if lacking[owner] == nil {
			delete(w.lacking, owner)
			w.conditions.update(owner, "")
		}
	}
}

// tell makes an event of a message that is not told yet; an empty one ends it.
func (w *serviceWarnings) tell(told map[reconcile.Owner]string, owner reconcile.Owner, reason, message string) {
	if message == "" {
		delete(told, owner)
		return
	}
	if told[owner] == message {
		return
	}
	told[owner] = message
	if _, pod := desired.CutPodName(owner.Name); pod {
		return // rows of a host port have no Service; the log has the cause
	}
	svc, err := w.services.Services(owner.Namespace).Get(owner.Name)
	if err != nil {
		svc = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: owner.Namespace, Name: owner.Name}}
	}
	w.logger.Warn(message, "service", owner.Namespace+"/"+owner.Name, "reason", reason)
	if w.recorder != nil {
		w.recorder.Event(svc, corev1.EventTypeWarning, reason, message)
	}
}
