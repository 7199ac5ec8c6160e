package pki

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// WriteKubeconfig writes a kubeconfig for server (an https URL) with the client certificate of user to file, mode 0600.
// Key and certificates are embedded, so the file can be copied elsewhere.
func (b *Bundle) WriteKubeconfig(file, server, user string, client Pair) error {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["skep"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: b.CA.Cert}
	cfg.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: client.Cert, ClientKeyData: client.Key}
	cfg.Contexts["skep"] = &clientcmdapi.Context{Cluster: "skep", AuthInfo: user}
	cfg.CurrentContext = "skep"
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	return writeFile(file, data)
}
