package api

// Resources returns the table: one row per served kind, in the order in which they are installed and listed in discovery.
// Every call makes a new table; the caller owns it.
func Resources() []*Resource {
	return []*Resource{
		namespaceResource(),
		nodeResource(),
		podResource(),
		serviceResource(),
		endpointsResource(),
		configMapResource(),
		secretResource(),
		serviceAccountResource(),
		eventResource(),
		eventsV1Resource(),
		leaseResource(),
		deploymentResource(),
		replicaSetResource(),
		endpointSliceResource(),
		networkPolicyResource(),
		clusterRoleResource(),
		clusterRoleBindingResource(),
		roleResource(),
		roleBindingResource(),
	}
}
