package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/control/agent/env"
)

// content collects the files of a volume whose data comes from the API. expires is when it must be made again, zero for never.
type content struct {
	files   map[string]File
	expires time.Time
}

// collect reads what a volume shows; ok is false for volumes of other kinds.
func (m *Manager) collect(ctx context.Context, p *corev1.Pod, v *corev1.Volume) (c content, ok bool, err error) {
	c.files = map[string]File{}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return c, true, m.configMap(ctx, p, &c, s.Name, s.Items, mode(s.DefaultMode), s.Optional)
	case v.Secret != nil:
		s := v.Secret
		return c, true, m.secret(ctx, p, &c, s.SecretName, s.Items, mode(s.DefaultMode), s.Optional)
	case v.DownwardAPI != nil:
		return c, true, m.downward(p, &c, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		err = m.projected(ctx, p, &c, v)
		return c, true, err
	}
	return c, false, nil
}

func mode(m *int32) os.FileMode {
	if m == nil {
		return 0o644
	}
	return os.FileMode(*m)
}

func (m *Manager) projected(ctx context.Context, p *corev1.Pod, c *content, v *corev1.Volume) error {
	perm := mode(v.Projected.DefaultMode)
	for i := range v.Projected.Sources {
		var err error
		switch s := &v.Projected.Sources[i]; {
		case s.ConfigMap != nil:
			err = m.configMap(ctx, p, c, s.ConfigMap.Name, s.ConfigMap.Items, perm, s.ConfigMap.Optional)
		case s.Secret != nil:
			err = m.secret(ctx, p, c, s.Secret.Name, s.Secret.Items, perm, s.Secret.Optional)
		case s.DownwardAPI != nil:
			err = m.downward(p, c, s.DownwardAPI.Items, perm)
		case s.ServiceAccountToken != nil:
			err = m.token(ctx, p, c, v.Name, s.ServiceAccountToken, perm)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) configMap(ctx context.Context, p *corev1.Pod, c *content, name string, items []corev1.KeyToPath, perm os.FileMode, optional *bool) error {
	o, err := m.cfg.Objects.ConfigMap(ctx, string(p.UID), p.Namespace, name)
	if err != nil {
		return missing(err, optional)
	}
	data := map[string][]byte{}
	for k, v := range o.Data {
		data[k] = []byte(v)
	}
	for k, v := range o.BinaryData {
		data[k] = v
	}
	return c.pick(data, items, perm, optional)
}

func (m *Manager) secret(ctx context.Context, p *corev1.Pod, c *content, name string, items []corev1.KeyToPath, perm os.FileMode, optional *bool) error {
	o, err := m.cfg.Objects.Secret(ctx, string(p.UID), p.Namespace, name)
	if err != nil {
		return missing(err, optional)
	}
	return c.pick(o.Data, items, perm, optional)
}

func missing(err error, optional *bool) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// pick takes all keys, or those that items name.
func (c *content) pick(data map[string][]byte, items []corev1.KeyToPath, perm os.FileMode, optional *bool) error {
	if len(items) == 0 {
		for k, v := range data {
			c.files[k] = File{Data: v, Mode: perm}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		f := File{Data: v, Mode: perm}
		if item.Mode != nil {
			f.Mode = os.FileMode(*item.Mode)
		}
		c.files[filepath.Clean(item.Path)] = f
	}
	return nil
}

func (m *Manager) downward(p *corev1.Pod, c *content, items []corev1.DownwardAPIVolumeFile, perm os.FileMode) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = env.Field(p, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = env.Resource(p, nil, item.ResourceFieldRef, m.cfg.Allocatable)
		}
		if err != nil {
			return err
		}
		f := File{Data: []byte(value), Mode: perm}
		if item.Mode != nil {
			f.Mode = os.FileMode(*item.Mode)
		}
		c.files[filepath.Clean(item.Path)] = f
	}
	return nil
}

// token asks for a token that is bound to the pod, and for a new one when four fifths of its life are over.
func (m *Manager) token(ctx context.Context, p *corev1.Pod, c *content, volume string, s *corev1.ServiceAccountTokenProjection, perm os.FileMode) error {
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
	}}
	if s.Audience != "" {
		req.Spec.Audiences = []string{s.Audience}
	}
	k := tokenKey{p.UID, volume, s.Path}
	m.mu.Lock()
	held, ok := m.tokens[k]
	m.mu.Unlock()
	if !ok || time.Now().After(held.renew) {
		asked := time.Now()
		out, err := m.cfg.Client.CoreV1().ServiceAccounts(p.Namespace).CreateToken(ctx, p.Spec.ServiceAccountName, req, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("failed to fetch token: %w", err)
		}
		life := out.Status.ExpirationTimestamp.Sub(asked)
		held = token{text: out.Status.Token, renew: asked.Add(min(life*4/5, 24*time.Hour))}
		m.mu.Lock()
		m.tokens[k] = held
		m.mu.Unlock()
	}
	f := File{Data: []byte(held.text), Mode: perm}
	// Only its owner may read a token: the container's user, when all containers agree on one.
	if uid := soleUser(p); uid != nil {
		f.UID, f.Mode = uid, 0o600
	}
	c.files[filepath.Clean(s.Path)] = f
	if c.expires.IsZero() || held.renew.Before(c.expires) {
		c.expires = held.renew
	}
	return nil
}

func soleUser(p *corev1.Pod) *int64 {
	var sole *int64
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			var uid *int64
			if p.Spec.SecurityContext != nil {
				uid = p.Spec.SecurityContext.RunAsUser
			}
			if s := list[i].SecurityContext; s != nil && s.RunAsUser != nil {
				uid = s.RunAsUser
			}
			if uid == nil || sole != nil && *sole != *uid {
				return nil
			}
			sole = uid
		}
	}
	return sole
}
