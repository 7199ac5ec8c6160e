// Package bench measures a running cluster from inside: Service throughput and latency against going direct, DNS look-ups,
// and pod starts. A benchmark makes a namespace, runs its two sides as pods of this very binary, and removes the namespace.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/remotecommand"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/streaming/pkg/httpstream"
)

// Bench is where and how a benchmark runs.
type Bench struct {
	// Client and Config reach the cluster as an administrator.
	Client kubernetes.Interface
	Config *rest.Config
	// Image is this binary as an image, with the binary at /skep; it must be on the node.
	Image string
	// Domain is the cluster domain, for example cluster.local.
	Domain string
	// Out gets the result, Progress a line for each step.
	Out, Progress io.Writer
	// JSON prints one object instead of a table.
	JSON bool
}

// startTimeout bounds the wait for a pod of the benchmark.
const startTimeout = time.Minute

func (b *Bench) progress(format string, args ...any) {
	fmt.Fprintf(b.Progress, format+"\n", args...)
}

// namespace makes a namespace for the run; remove deletes it, also after ctx has ended.
func (b *Bench) namespace(ctx context.Context) (name string, remove func(), err error) {
	ns, err := b.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "skep-bench-"}}, metav1.CreateOptions{})
	if err != nil {
		return "", nil, fmt.Errorf("create namespace: %w", err)
	}
	return ns.Name, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
			b.progress("namespace %s is left behind: %v", ns.Name, err)
		}
	}, nil
}

// pod is a pod of this binary that runs the given arguments and is labelled app=name. It needs no token and ends as soon
// as it is told to.
func (b *Bench) pod(name string, args ...string) *corev1.Pod {
	no, grace := false, int64(5)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "main", Image: b.Image, ImagePullPolicy: corev1.PullNever, Command: []string{"/skep"}, Args: args}},
		},
	}
}

// awaitReady waits until the pod is ready and returns it.
func (b *Bench) awaitReady(ctx context.Context, ns, name string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	pods := b.Client.CoreV1().Pods(ns)
	byName := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			byName(&o)
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			byName(&o)
			return pods.Watch(ctx, o)
		},
	}
	var last *corev1.Pod
	event, err := watchtools.UntilWithSync(ctx, lw, &corev1.Pod{}, nil, func(e watch.Event) (bool, error) {
		pod, ok := e.Object.(*corev1.Pod)
		if !ok || e.Type == watch.Deleted {
			return false, fmt.Errorf("pod %s/%s was deleted", ns, name)
		}
		last = pod
		return ready(pod), nil
	})
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s did not become ready: %w%s", ns, name, err, why(last))
	}
	return event.Object.(*corev1.Pod), nil
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// why tells what the pod waits for, as far as its status says.
func why(pod *corev1.Pod) string {
	if pod == nil {
		return ""
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			return fmt.Sprintf(" (%s: %s)", w.Reason, w.Message)
		}
	}
	return fmt.Sprintf(" (phase %s)", pod.Status.Phase)
}

// exec runs cmd in the pod and hands its standard output to read while it runs.
func (b *Bench) exec(ctx context.Context, ns, pod string, cmd []string, read func(io.Reader) error) error {
	req := b.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: cmd, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := b.executor(req.URL())
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	result := make(chan error, 1)
	go func() {
		err := read(pr)
		_, _ = io.Copy(io.Discard, pr) // lets the command end when reading failed
		result <- err
	}()
	stderr := &tail{}
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: pw, Stderr: stderr})
	pw.Close()
	if err != nil {
		err = fmt.Errorf("run %q in pod %s/%s: %w: %s", cmd[1:3], ns, pod, err, stderr.data)
	}
	return errors.Join(err, <-result)
}

// executor speaks WebSocket, and SPDY where the server does not take that.
func (b *Bench) executor(target *url.URL) (remotecommand.Executor, error) {
	webSocket, err := remotecommand.NewWebSocketExecutor(b.Config, http.MethodGet, target.String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(b.Config, http.MethodPost, target)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(webSocket, spdy, httpstream.IsUpgradeFailure)
}

// tail keeps the last kilobyte written to it.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - 1024; over > 0 {
		t.data = t.data[over:]
	}
	return len(p), nil
}
