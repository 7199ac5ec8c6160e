// Package aggregation keeps the rules of roles that gather those of others, such as admin, edit and view.
package aggregation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbacinformers "k8s.io/client-go/informers/rbac/v1"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Aggregator writes the rules of gathering roles. Run runs it once.
type Aggregator struct {
	client kubernetes.Interface
	roles  rbaclisters.ClusterRoleLister
	synced cache.DoneChecker
	// queue holds the one key there is: a role of any name may be gathered by any other.
	queue  workqueue.TypedRateLimitingInterface[struct{}]
	logger *slog.Logger
}

// New returns the aggregator. The caller starts the informer.
func New(client kubernetes.Interface, informer rbacinformers.ClusterRoleInformer, logger *slog.Logger) (*Aggregator, error) {
	a := &Aggregator{
		client: client, roles: informer.Lister(), logger: logger,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[struct{}]()),
	}
	changed := func() { a.queue.Add(struct{}{}) }
	registration, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() }, UpdateFunc: func(any, any) { changed() }, DeleteFunc: func(any) { changed() }})
	if err != nil {
		return nil, fmt.Errorf("watch cluster roles: %w", err)
	}
	a.synced = registration.HasSyncedChecker()
	return a, nil
}

// Run aggregates after every change until ctx ends.
func (a *Aggregator) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, a.queue.ShutDown)()
	if !cache.WaitFor(ctx, "", a.synced) {
		return
	}
	for {
		key, shutdown := a.queue.Get()
		if shutdown {
			return
		}
		if err := a.aggregate(ctx); err != nil {
			a.logger.WarnContext(ctx, "cannot aggregate cluster roles", "error", err)
			a.queue.AddRateLimited(key)
		} else {
			a.queue.Forget(key)
		}
		a.queue.Done(key)
	}
}

// aggregate writes every gathering role whose rules are not what it gathers. A role that gathers gathering roles is right after
// the pass that follows their update.
func (a *Aggregator) aggregate(ctx context.Context) error {
	roles, err := a.roles.List(labels.Everything())
	if err != nil {
		return err
	}
	slices.SortFunc(roles, func(x, y *rbacv1.ClusterRole) int { return cmp.Compare(x.Name, y.Name) })
	var failed []error
	for _, r := range roles {
		if r.AggregationRule == nil {
			continue
		}
		rules, err := gather(r, roles)
		if err == nil && !equality.Semantic.DeepEqual(rules, r.Rules) {
			r = r.DeepCopy()
			r.Rules = rules
			_, err = a.client.RbacV1().ClusterRoles().Update(ctx, r, metav1.UpdateOptions{})
		}
		// After a conflict the watch brings the newer version, which starts another pass.
		if err != nil && !apierrors.IsConflict(err) {
			failed = append(failed, fmt.Errorf("cluster role %s: %w", r.Name, err))
		}
	}
	return errors.Join(failed...)
}

// gather returns the rules of the roles that one selects, in the order of its selectors and then of the roles, none twice.
func gather(into *rbacv1.ClusterRole, roles []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	for i := range into.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&into.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, r := range roles {
			if r.Name == into.Name || !selector.Matches(labels.Set(r.Labels)) {
				continue
			}
			for _, rule := range r.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
