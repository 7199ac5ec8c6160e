// Package served lists the resources whose objects controllers may watch and delete, from what the API server says that it serves.
package served

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// Resource is one resource at its group's preferred version.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	verbs      metav1.Verbs
}

// Can says whether all verbs are served for the resource.
func (r *Resource) Can(verbs ...string) bool {
	for _, verb := range verbs {
		if !slices.Contains(r.verbs, verb) {
			return false
		}
	}
	return true
}

// Deletable returns the resources that can be listed and deleted, but Events: they go by themselves, and nobody waits for them. When a
// group cannot be discovered, an error comes together with the rest of the resources.
func Deletable(client discovery.DiscoveryInterface) ([]Resource, error) {
	lists, err := discovery.ServerPreferredResources(client)
	if err != nil {
		err = fmt.Errorf("discover served resources: %w", err)
	}
	var resources []Resource
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			return resources, parseErr
		}
		for _, r := range list.APIResources {
			resource := Resource{GroupVersionResource: gv.WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced, verbs: r.Verbs}
			if resource.Can("list", "delete") && r.Name != "events" {
				resources = append(resources, resource)
			}
		}
	}
	return resources, err
}
