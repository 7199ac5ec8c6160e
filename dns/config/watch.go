package config

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// reasonInvalid is the reason of the Event on a ConfigMap that is not taken into use.
const reasonInvalid = "InvalidDNSConfiguration"

// Watcher follows the ConfigMap. One that is wrong changes nothing: the last good configuration stays in use, and an Event on the
// ConfigMap and the metric skep_dns_config_valid say so.
type Watcher struct {
	client kubernetes.Interface
	node   string
	apply  func(*Config)
	logger *slog.Logger
	valid  prometheus.Gauge
	last   atomic.Pointer[string] // the text that was looked at last

	using sync.Mutex // makes taking into use one step
	used  bool       // guarded by using: a configuration was handed to apply
}

// NewWatcher returns a watcher that hands each good configuration to apply; node is who speaks in Events.
func NewWatcher(client kubernetes.Interface, node string, apply func(*Config), logger *slog.Logger) *Watcher {
	w := &Watcher{client: client, node: node, apply: apply, logger: logger,
		valid: prometheus.NewGauge(prometheus.GaugeOpts{Name: "skep_dns_config_valid", Help: "1 if the DNS configuration is in use, 0 if it is wrong and the one before it is."})}
	w.valid.Set(1)
	return w
}

// Collectors are the watcher's metrics.
func (w *Watcher) Collectors() []prometheus.Collector { return []prometheus.Collector{w.valid} }

// Run follows the ConfigMap until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithNamespace(Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", Name).String()
		}))
	informer := factory.Core().V1().ConfigMaps().Informer()
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { w.changed(ctx, obj) },
		UpdateFunc: func(_, obj any) { w.changed(ctx, obj) },
		DeleteFunc: func(any) { w.use(&Config{}, "") },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		w.useDefault()
	}
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

func (w *Watcher) changed(ctx context.Context, obj any) {
	cm, ok := obj.(*corev1.ConfigMap)
	if !ok || cm.Name != Name {
		return
	}
	text := cm.Data[Key]
	if last := w.last.Load(); last != nil && *last == text {
		return
	}
	c, err := Decode(text)
	if err != nil {
		w.last.Store(&text)
		w.valid.Set(0)
		w.logger.Error("the DNS configuration is wrong and not taken into use", "error", err)
		w.report(ctx, cm, err)
		return
	}
	w.use(c, text)
}

// useDefault takes the default into use where there is no configuration, or none that is right: whoever waits for one knows then.
func (w *Watcher) useDefault() {
	w.using.Lock()
	defer w.using.Unlock()
	if !w.used {
		w.used = true
		w.apply(&Config{})
	}
}

func (w *Watcher) use(c *Config, text string) {
	w.using.Lock()
	defer w.using.Unlock()
	w.used = true
	w.last.Store(&text)
	w.apply(c)
	w.valid.Set(1)
	w.logger.Info("DNS configuration in use")
}

// report makes the Event that `skep describe configmap` shows.
func (w *Watcher) report(ctx context.Context, cm *corev1.ConfigMap, wrong error) {
	now := metav1.Now()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := w.client.CoreV1().Events(cm.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: cm.Namespace, Name: fmt.Sprintf("%s.%x", cm.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: cm.Namespace, Name: cm.Name, UID: cm.UID, ResourceVersion: cm.ResourceVersion},
		Type:           corev1.EventTypeWarning, Reason: reasonInvalid, Message: wrong.Error() + "; the configuration before it stays in use",
		Source: corev1.EventSource{Component: "skep-dns", Host: w.node}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		w.logger.Warn("no event tells of the wrong DNS configuration", "error", err)
	}
}
