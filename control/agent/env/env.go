// Package env computes the environment of containers: variables of the spec and of what it refers to, of Services, and of the
// downward API.
package env

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/object"
)

// Resolver resolves what environments refer to.
type Resolver struct {
	Objects  *object.Store
	Services corelisters.ServiceLister
	// Allocatable stands in for limits that are not set.
	Allocatable corev1.ResourceList
}

// Env returns a container's whole environment, expanded. What is missing is an error in upstream's words.
func (r *Resolver) Env(ctx context.Context, p *corev1.Pod, c *corev1.Container) ([]container.EnvVar, error) {
	values := map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			order = append(order, name)
		}
		values[name] = value
	}
	services, err := r.services(p)
	if err != nil {
		return nil, err
	}
	for _, v := range services {
		set(v.Name, v.Value)
	}
	for i := range c.EnvFrom {
		if err := r.from(ctx, p, &c.EnvFrom[i], set); err != nil {
			return nil, err
		}
	}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for i := range c.Env {
		e := &c.Env[i]
		value, ok := Expand(e.Value, lookup), true
		if e.ValueFrom != nil {
			if value, ok, err = r.source(ctx, p, c, e.ValueFrom); err != nil {
				return nil, err
			}
		}
		if ok {
			set(e.Name, value)
		}
	}
	out := []container.EnvVar{{Name: "HOSTNAME", Value: hostname(p)}}
	for _, name := range order {
		out = append(out, container.EnvVar{Name: name, Value: values[name]})
	}
	return out, nil
}

func hostname(p *corev1.Pod) string {
	if p.Spec.HostNetwork {
		return p.Spec.NodeName
	}
	if p.Spec.Hostname != "" {
		return p.Spec.Hostname
	}
	return p.Name
}

func (r *Resolver) from(ctx context.Context, p *corev1.Pod, f *corev1.EnvFromSource, set func(name, value string)) error {
	switch {
	case f.ConfigMapRef != nil:
		o, err := r.Objects.ConfigMap(ctx, string(p.UID), p.Namespace, f.ConfigMapRef.Name)
		if err != nil {
			return unless(f.ConfigMapRef.Optional, err)
		}
		for _, k := range slices.Sorted(maps.Keys(o.Data)) {
			set(f.Prefix+k, o.Data[k])
		}
	case f.SecretRef != nil:
		o, err := r.Objects.Secret(ctx, string(p.UID), p.Namespace, f.SecretRef.Name)
		if err != nil {
			return unless(f.SecretRef.Optional, err)
		}
		for _, k := range slices.Sorted(maps.Keys(o.Data)) {
			set(f.Prefix+k, string(o.Data[k]))
		}
	}
	return nil
}

// unless forgives an object that is missing and may be.
func unless(optional *bool, err error) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// source is the value that a variable takes from elsewhere, and whether there is one.
func (r *Resolver) source(ctx context.Context, p *corev1.Pod, c *corev1.Container, f *corev1.EnvVarSource) (string, bool, error) {
	switch {
	case f.FieldRef != nil:
		v, err := Field(p, f.FieldRef.FieldPath)
		return v, err == nil, err
	case f.ResourceFieldRef != nil:
		v, err := Resource(p, c, f.ResourceFieldRef, r.Allocatable)
		return v, err == nil, err
	case f.ConfigMapKeyRef != nil:
		ref := f.ConfigMapKeyRef
		o, err := r.Objects.ConfigMap(ctx, string(p.UID), p.Namespace, ref.Name)
		if err != nil {
			return "", false, unless(ref.Optional, err)
		}
		v, ok := o.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, p.Namespace, ref.Name)
		}
		return v, ok, nil
	case f.SecretKeyRef != nil:
		ref := f.SecretKeyRef
		o, err := r.Objects.Secret(ctx, string(p.UID), p.Namespace, ref.Name)
		if err != nil {
			return "", false, unless(ref.Optional, err)
		}
		v, ok := o.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, p.Namespace, ref.Name)
		}
		return string(v), ok, nil
	}
	return "", false, nil
}

// services are the variables of the API server's Service and, if the pod wants them, of those of its namespace.
func (r *Resolver) services(p *corev1.Pod) ([]container.EnvVar, error) {
	list, err := r.Services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	link := p.Spec.EnableServiceLinks == nil || *p.Spec.EnableServiceLinks
	chosen := map[string]*corev1.Service{}
	for _, s := range list {
		master := s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes"
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
			continue
		}
		if s.Namespace == p.Namespace && link || master && chosen[s.Name] == nil {
			chosen[s.Name] = s
		}
	}
	var out []container.EnvVar
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		out = append(out, serviceVars(chosen[name])...)
	}
	return out, nil
}

func serviceVars(s *corev1.Service) []container.EnvVar {
	if len(s.Spec.Ports) == 0 {
		return nil
	}
	prefix := variable(s.Name)
	ip := s.Spec.ClusterIP
	host := ip
	if strings.Contains(ip, ":") {
		host = "[" + ip + "]"
	}
	out := []container.EnvVar{
		{Name: prefix + "_SERVICE_HOST", Value: ip},
		{Name: prefix + "_SERVICE_PORT", Value: fmt.Sprint(s.Spec.Ports[0].Port)},
	}
	for _, port := range s.Spec.Ports {
		if port.Name != "" {
			out = append(out, container.EnvVar{Name: prefix + "_SERVICE_PORT_" + variable(port.Name), Value: fmt.Sprint(port.Port)})
		}
	}
	for i, port := range s.Spec.Ports {
		protocol := strings.ToLower(string(port.Protocol))
		if protocol == "" {
			protocol = "tcp"
		}
		url := fmt.Sprintf("%s://%s:%d", protocol, host, port.Port)
		if i == 0 {
			out = append(out, container.EnvVar{Name: prefix + "_PORT", Value: url})
		}
		p := fmt.Sprintf("%s_PORT_%d_%s", prefix, port.Port, strings.ToUpper(protocol))
		out = append(out,
			container.EnvVar{Name: p, Value: url}, container.EnvVar{Name: p + "_PROTO", Value: protocol},
			container.EnvVar{Name: p + "_PORT", Value: fmt.Sprint(port.Port)}, container.EnvVar{Name: p + "_ADDR", Value: ip})
	}
	return out
}

func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// Credentials returns the logins in the pod's pull secrets, and the names of those that could not be read.
func (r *Resolver) Credentials(ctx context.Context, p *corev1.Pod) (creds []container.Credential, missing []string) {
	for _, ref := range p.Spec.ImagePullSecrets {
		o, err := r.Objects.Secret(ctx, string(p.UID), p.Namespace, ref.Name)
		if err != nil {
			missing = append(missing, ref.Name)
			continue
		}
		creds = append(creds, logins(o)...)
	}
	return creds, missing
}

// Release forgets the pod.
func (r *Resolver) Release(uid string) { r.Objects.Release(uid) }

type login struct {
	Username, Password, Auth string
	RegistryToken            string `json:"registrytoken"`
}

// logins reads a secret in Docker's format, the new or the old one. What cannot be read gives no login.
func logins(s *corev1.Secret) []container.Credential {
	var file struct{ Auths map[string]login }
	if data := s.Data[corev1.DockerConfigJsonKey]; data != nil {
		if json.Unmarshal(data, &file) != nil {
			return nil
		}
	} else if json.Unmarshal(s.Data[corev1.DockerConfigKey], &file.Auths) != nil {
		return nil
	}
	var out []container.Credential
	for _, registry := range slices.Sorted(maps.Keys(file.Auths)) {
		l := file.Auths[registry]
		if both, err := base64.StdEncoding.DecodeString(l.Auth); err == nil && l.Auth != "" {
			l.Username, l.Password, _ = strings.Cut(string(both), ":")
		}
		out = append(out, container.Credential{Registry: registry, Username: l.Username, Password: l.Password, Token: l.RegistryToken})
	}
	return out
}
