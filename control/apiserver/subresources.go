package apiserver

// TEMPORARY
import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
)

type binding struct{ store *genericregistry.Store }

func (b *binding) New() runtime.Object   { return &corev1.Binding{} }
func (b *binding) Destroy()              {}
func (b *binding) NamespaceScoped() bool { return true }
func (b *binding) Create(ctx context.Context, name string, obj runtime.Object, v rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	bd := obj.(*corev1.Binding)
	_, _, err := b.store.Update(ctx, name, rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, n, old runtime.Object) (runtime.Object, error) {
		p := old.(*corev1.Pod).DeepCopy()
		if p.Spec.NodeName != "" {
			return nil, apierrors.NewConflict(corev1.Resource("pods"), name, fmt.Errorf("already bound"))
		}
		p.Spec.NodeName = bd.Target.Name
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "PodScheduled", Status: "True", LastTransitionTime: metav1.Now()})
		return p, nil
	}), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	return &metav1.Status{Status: metav1.StatusSuccess}, err
}

type stream struct {
	pods  *genericregistry.Store
	path  string
	opts  func() runtime.Object
	query func(runtime.Object, url.Values) string
	tr    http.RoundTripper
	get   bool
}

func (s *stream) New() runtime.Object                               { return &corev1.Pod{} }
func (s *stream) Destroy()                                          {}
func (s *stream) NewConnectOptions() (runtime.Object, bool, string) { return s.opts(), false, "" }
func (s *stream) ConnectMethods() []string                          { return []string{"GET", "POST"} }
func (s *stream) Connect(ctx context.Context, name string, opts runtime.Object, r rest.Responder) (http.Handler, error) {
	obj, err := s.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod := obj.(*corev1.Pod)
	q := url.Values{}
	c := s.query(opts, q)
	if c == "" {
		c = pod.Spec.Containers[0].Name
	}
	u := &url.URL{Scheme: "https", Host: net.JoinHostPort(pod.Status.HostIP, "10250"), Path: fmt.Sprintf("/%s/%s/%s/%s", s.path, pod.Namespace, pod.Name, c), RawQuery: q.Encode()}
	h := proxy.NewUpgradeAwareHandler(u, s.tr, false, !s.get, proxy.NewErrorResponder(respond{r}))
	return h, nil
}

type respond struct{ r rest.Responder }

func (r respond) Error(err error) { r.r.Error(err) }

func setbool(q url.Values, k string, v bool, as string) {
	if v {
		q.Set(k, as)
	}
}

func (k *kinds) addSubresources(cfg Config) error {
	cert, err := tls.X509KeyPair(cfg.Keys.NodeClient.Cert, cfg.Keys.NodeClient.Key)
	if err != nil {
		return err
	}
	tr := utilnet.SetTransportDefaults(&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}})
	tr.ForceAttemptHTTP2 = false
	p := k.byKind["Pod"]
	k.merge("Pod", map[string]rest.Storage{"pods/binding": &binding{p.Unchecked()},
		"pods/log": &stream{p.Store, "containerLogs", func() runtime.Object { return &corev1.PodLogOptions{} }, func(o runtime.Object, q url.Values) string {
			l := o.(*corev1.PodLogOptions)
			setbool(q, "follow", l.Follow, "true")
			setbool(q, "previous", l.Previous, "true")
			setbool(q, "timestamps", l.Timestamps, "true")
			if l.TailLines != nil {
				q.Set("tailLines", fmt.Sprint(*l.TailLines))
			}
			return l.Container
		}, tr, true},
		"pods/exec": &stream{p.Store, "exec", func() runtime.Object { return &corev1.PodExecOptions{} }, func(o runtime.Object, q url.Values) string {
			l := o.(*corev1.PodExecOptions)
			setbool(q, "input", l.Stdin, "1")
			setbool(q, "output", l.Stdout, "1")
			setbool(q, "error", l.Stderr, "1")
			setbool(q, "tty", l.TTY, "1")
			q["command"] = l.Command
			return l.Container
		}, tr, false}})
	k.merge("Namespace", map[string]rest.Storage{"namespaces/finalize": &fin{k.byKind["Namespace"].Unchecked()}})
	return nil
}

type fin struct{ store *genericregistry.Store }

func (s *fin) New() runtime.Object { return s.store.NewFunc() }
func (s *fin) Destroy()            {}
func (s *fin) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, c rest.ValidateObjectFunc, u rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, info, c, u, false, o)
}
