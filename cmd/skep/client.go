package main

import (
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// adminConfig reads the given kubeconfig, else that of $KUBECONFIG, else that of this machine's node.
func adminConfig(file string) (*rest.Config, error) {
	if file == "" {
		file = os.Getenv("KUBECONFIG")
	}
	if file == "" {
		file = defaultPaths().kubeconfig()
	}
	return clientcmd.BuildConfigFromFlags("", file)
}
