// Package admission holds what every write passes before it is stored: the namespace must live, a pod gets its service account and
// tolerations, a node may only write what is its own, and nobody grants what he does not hold.
package admission

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/control/apiserver/authorization"
)

// New returns the chain of all plugins. The client is the server's own; the informers are started by the caller after the server
// serves. A write that comes before they have synced waits for them. The authorizer and the rules that its users hold bound what
// they grant.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, a authorizer.UnconditionalAuthorizer, held *authorization.RBAC) (admission.Interface, error) {
	// The namespaces that the system itself needs cannot be deleted.
	namespaces, err := lifecycle.NewLifecycle(sets.New(metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic))
	if err != nil {
		return nil, err
	}
	namespaces.SetExternalKubeInformerFactory(factory)
	namespaces.SetExternalKubeClientSet(client)
	if err := namespaces.ValidateInitialization(); err != nil {
		return nil, fmt.Errorf("namespace lifecycle: %w", err)
	}
	return chain{namespaces, nodes{client: client}, escalation{client, a, held}, accounts{client: client}, tolerations{}, priorities{}}, nil
}

// chain runs its plugins in order; the first that refuses ends it.
type chain []admission.Interface

// Handles implements admission.Interface.
func (c chain) Handles(op admission.Operation) bool {
	for _, p := range c {
		if p.Handles(op) {
			return true
		}
	}
	return false
}

// Admit implements admission.MutationInterface.
func (c chain) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	for _, p := range c {
		if m, ok := p.(admission.MutationInterface); ok && p.Handles(a.GetOperation()) {
			if err := m.Admit(ctx, a, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (c chain) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	for _, p := range c {
		if v, ok := p.(admission.ValidationInterface); ok && p.Handles(a.GetOperation()) {
			if err := v.Validate(ctx, a, o); err != nil {
				return err
			}
		}
	}
	return nil
}
