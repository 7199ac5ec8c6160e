package apiserver

import (
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/skep-io/skep/control/api"
	"github.com/skep-io/skep/control/apiserver/subresource"
)

// addSubresources adds what is served below the objects of the table, status apart.
func (k *kinds) addSubresources(cfg Config, a authorizer.UnconditionalAuthorizer) error {
	nodes, err := subresource.NewNodes(k.byKind["Pod"], k.byKind["Node"], cfg.Keys, cfg.AgentPort)
	if err != nil {
		return err
	}
	binding := subresource.NewBinding(k.byKind["Pod"])
	k.merge("Pod", map[string]rest.Storage{
		"bindings":         subresource.NewBindings(binding),
		"pods/binding":     binding,
		"pods/eviction":    subresource.NewEviction(k.byKind["Pod"]),
		"pods/log":         subresource.NewLog(nodes),
		"pods/exec":        subresource.NewExec(nodes, a),
		"pods/attach":      subresource.NewAttach(nodes, a),
		"pods/portforward": subresource.NewPortForward(nodes, a),
	})
	namespaces := subresource.NewNamespaces(k.byKind["Namespace"])
	k.merge("Namespace", map[string]rest.Storage{
		"namespaces":          namespaces,
		"namespaces/finalize": subresource.NewFinalize(k.byKind["Namespace"]),
		// Made again, since the rule for removal has changed.
		"namespaces/status": k.byKind["Namespace"].Status(),
	})
	for _, row := range api.Resources() {
		if row.HasScale {
			scale := subresource.NewScale(k.byKind[row.Kind], row.GroupVersion.WithResource(row.Name))
			k.merge(row.Kind, map[string]rest.Storage{row.Name + "/scale": scale})
		}
	}
	return nil
}
