package node

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The lease's life and how often it is renewed.
const (
	leaseSeconds = 40
	renewal      = 10 * time.Second
)

// renew keeps the node's lease until ctx ends.
func (r *Reporter) renew(ctx context.Context) {
	var lease *coordinationv1.Lease
	for {
		var err error
		next := renewal
		if lease, err = r.renewOnce(ctx, lease); err != nil {
			lease, next = nil, time.Second
			r.cfg.Logger.Debug("renew node lease", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

func (r *Reporter) renewOnce(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	leases := r.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now, seconds := metav1.NowMicro(), int32(leaseSeconds)
	if lease == nil {
		have, err := leases.Get(ctx, r.cfg.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return leases.Create(ctx, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: r.cfg.Name, Namespace: corev1.NamespaceNodeLease},
				Spec:       coordinationv1.LeaseSpec{HolderIdentity: &r.cfg.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
			}, metav1.CreateOptions{})
		}
		if err != nil {
			return nil, err
		}
		lease = have
	}
	want := lease.DeepCopy()
	want.Spec.HolderIdentity, want.Spec.LeaseDurationSeconds, want.Spec.RenewTime = &r.cfg.Name, &seconds, &now
	return leases.Update(ctx, want, metav1.UpdateOptions{})
}
