package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

// clusterRanges are a cluster's ranges of pod addresses and cluster IPs; empty ones are not known.
type clusterRanges struct{ pods, services []netip.Prefix }

// toldRanges asks a cluster for its ranges. One made by kubeadm keeps them in a ConfigMap; since 1.33 every API server has that of
// cluster IPs as an object. What may not be read is not told.
func toldRanges(ctx context.Context, client kubernetes.Interface) (clusterRanges, error) {
	var ranges clusterRanges
	cm, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kubeadm-config", metav1.GetOptions{})
	switch {
	case err == nil:
		if ranges, err = kubeadmRanges(cm.Data["ClusterConfiguration"]); err != nil {
			return ranges, fmt.Errorf("ConfigMap kube-system/kubeadm-config: %w", err)
		}
	case !unanswered(err):
		return ranges, err
	}
	object, err := client.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{})
	switch {
	case err == nil:
		if ranges.services, err = parsePrefixes(object.Spec.CIDRs); err != nil {
			return ranges, fmt.Errorf("ServiceCIDR kubernetes: %w", err)
		}
	case !unanswered(err):
		return ranges, err
	}
	return ranges, nil
}

// unanswered says that the API answered, but not what was asked.
func unanswered(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) }

// kubeadmRanges reads kubeadm's configuration of a cluster.
func kubeadmRanges(text string) (clusterRanges, error) {
	var config struct {
		Networking struct {
			PodSubnet     string `json:"podSubnet"`
			ServiceSubnet string `json:"serviceSubnet"`
		} `json:"networking"`
	}
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		return clusterRanges{}, err
	}
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	}
	pods, err := parsePrefixes(split(config.Networking.PodSubnet))
	if err != nil {
		return clusterRanges{}, err
	}
	services, err := parsePrefixes(split(config.Networking.ServiceSubnet))
	return clusterRanges{pods, services}, err
}
