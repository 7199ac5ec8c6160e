package bench

import (
	"context"
	"fmt"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// PodCounts says how many pods Pods starts.
type PodCounts struct {
	// Serial pods start one at a time, Burst pods at once.
	Serial, Burst int
}

// Pods measures how long a pod takes from the create request to Running and from the delete request to gone, as a watch sees
// them, one at a time and in a burst. The image is on the node already.
func Pods(ctx context.Context, b *Bench, counts PodCounts) error {
	ns, remove, err := b.namespace(ctx)
	if err != nil {
		return err
	}
	defer remove()
	w, err := b.Client.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	defer w.Stop()
	run := podRun{b: b, ns: ns, events: w.ResultChan()}
	report := Report[PodsRow]{Benchmark: "pods", Conditions: map[string]any{"cpus": runtime.NumCPU(), "serial": counts.Serial, "burst": counts.Burst}}
	serial, err := run.serial(ctx, counts.Serial)
	if err != nil {
		return err
	}
	burst, err := run.burst(ctx, counts.Burst)
	if err != nil {
		return err
	}
	report.Rows = []PodsRow{serial, burst}
	return write(b.Out, report, podsColumns, b.JSON)
}

// podRun starts and deletes pods in one namespace and times them by its watch.
type podRun struct {
	b      *Bench
	ns     string
	events <-chan watch.Event
}

func (r *podRun) serial(ctx context.Context, n int) (PodsRow, error) {
	var starts, deletes []time.Duration
	began := time.Now()
	for i := range n {
		name := []string{fmt.Sprintf("serial-%d", i)}
		up, err := r.start(ctx, name)
		if err != nil {
			return PodsRow{}, err
		}
		gone, err := r.remove(ctx, name)
		if err != nil {
			return PodsRow{}, err
		}
		starts, deletes = append(starts, up...), append(deletes, gone...)
		r.b.progress("pod %2d of %d: Running after %4.0f ms, gone after %4.0f ms", i+1, n, millis(up[0]), millis(gone[0]))
	}
	return podsRow("serial", starts, deletes, float64(n)/time.Since(began).Seconds()), nil
}

func (r *podRun) burst(ctx context.Context, n int) (PodsRow, error) {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("burst-%d", i)
	}
	began := time.Now()
	starts, err := r.start(ctx, names)
	if err != nil {
		return PodsRow{}, err
	}
	took := time.Since(began)
	r.b.progress("burst of %d: all Running after %.0f ms", n, millis(took))
	deletes, err := r.remove(ctx, names)
	if err != nil {
		return PodsRow{}, err
	}
	return podsRow("burst", starts, deletes, float64(n)/took.Seconds()), nil
}

func podsRow(name string, starts, deletes []time.Duration, rate float64) PodsRow {
	// percentile gives microseconds.
	in := func(d []time.Duration, p float64) float64 { return roundTenth(percentile(d, p) / 1000) }
	return PodsRow{Case: name, P50Ms: in(starts, 50), P99Ms: in(starts, 99), DeleteP50Ms: in(deletes, 50), PodsPerSecond: roundTenth(rate)}
}

// start creates the pods and waits until each is Running.
func (r *podRun) start(ctx context.Context, names []string) ([]time.Duration, error) {
	return r.timed(ctx, names, func(name string) error {
		_, err := r.b.Client.CoreV1().Pods(r.ns).Create(ctx, r.b.pod(name, "bench", "idle"), metav1.CreateOptions{})
		return err
	}, func(e watch.Event, pod *corev1.Pod) (bool, error) {
		if pod.Status.Phase == corev1.PodFailed || e.Type == watch.Deleted {
			return false, fmt.Errorf("pod %s ended instead of running: %s %s", pod.Name, pod.Status.Reason, pod.Status.Message)
		}
		return pod.Status.Phase == corev1.PodRunning, nil
	})
}

// remove deletes the pods and waits until each is gone.
func (r *podRun) remove(ctx context.Context, names []string) ([]time.Duration, error) {
	return r.timed(ctx, names, func(name string) error {
		return r.b.Client.CoreV1().Pods(r.ns).Delete(ctx, name, metav1.DeleteOptions{})
	}, func(e watch.Event, _ *corev1.Pod) (bool, error) { return e.Type == watch.Deleted, nil })
}

// timed does the request for each name and returns how long after it each one's event came for which reached is true.
func (r *podRun) timed(ctx context.Context, names []string, request func(string) error, reached func(watch.Event, *corev1.Pod) (bool, error)) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	asked := make(map[string]time.Time, len(names))
	for _, name := range names {
		asked[name] = time.Now()
		if err := request(name); err != nil {
			return nil, fmt.Errorf("pod %s: %w", name, err)
		}
	}
	var took []time.Duration
	for len(asked) > 0 {
		select {
		case e, ok := <-r.events:
			pod, isPod := e.Object.(*corev1.Pod)
			if !ok || !isPod {
				return nil, fmt.Errorf("the watch of pods in %s ended", r.ns)
			}
			since, waiting := asked[pod.Name]
			if !waiting {
				continue
			}
			done, err := reached(e, pod)
			if err != nil {
				return nil, err
			}
			if done {
				took = append(took, time.Since(since))
				delete(asked, pod.Name)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d pods did not get there: %w", len(asked), len(names), ctx.Err())
		}
	}
	return took, nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
