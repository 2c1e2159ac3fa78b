// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/pkg/verdict"
)

// Unlock unlocks every guarded pod: it may be evicted and deleted from then on, whatever
// calls it holds. Unlock deletes none itself. But pods that are aside are returned to their
// ReplicaSets, which at once delete the pods that they have too many of, and a call in such
// a pod has only the pod's termination grace period. While no pod is aside or draining,
// none is deleted.
//
// A pod that was told to take no new calls never takes any again. Unlock lists such pods,
// with the command that replaces them.
//
// It takes the lease from the leading guard, and waits until that has noticed, which may
// take up to notice. It can be repeated.
func Unlock(ctx context.Context, client kubernetes.Interface, namespace string, notice time.Duration, out io.Writer) error {
	seized, err := leader.Seize(ctx, client, namespace)
	if err != nil {
		return err
	}
	if seized {
		_, _ = fmt.Fprintf(out, "took the lease; waiting %s for the guard to notice\n", notice)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(notice):
		}
	}
	_, err = client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, admission.BirthPolicy, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot ask for policy %s: %w", admission.BirthPolicy, err)
	}
	// While that policy exists, no guarded pod could be created without the budget.
	if err := unlockNamespaces(ctx, client, unlocking{keepBudget: err == nil}, out); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "unlocked; a drain-guard that starts locks again")
	return nil
}

// Uninstall has the time limits of UnlockAfterUninstall.
type Uninstall struct {
	// Sure is for how long nothing of callguard may exist. Somebody who is just applying its
	// objects may have applied the Job that runs this first.
	Sure time.Duration
	// Patience is how long it waits for objects that are being deleted.
	Patience time.Duration
	// Every is how often it checks.
	Every time.Duration
}

// UnlockAfterUninstall returns the pods that are aside, and removes the remaining budgets,
// once callguard was uninstalled: neither the guards' Deployment nor any of the admission
// policies exists, and none appears within u.Sure. If one exists, it does nothing, prints
// that, and returns nil, because it may have been run by an install. It takes no lease,
// because no drain-guard runs.
func UnlockAfterUninstall(ctx context.Context, client kubernetes.Interface, doors *manifests.Doors, namespace string, u Uninstall, out io.Writer) error {
	began := time.Now()
	for gone := began; time.Since(gone) < u.Sure; {
		standing, going, err := installed(ctx, client, doors, namespace)
		switch {
		case err != nil:
			return err
		case standing != "":
			_, _ = fmt.Fprintf(out, "callguard is installed, for %s is there: nothing is unlocked\n", standing)
			return nil
		case going != "" && time.Since(began) > u.Patience:
			_, _ = fmt.Fprintf(out, "%s is being deleted and still there after %s: nothing is unlocked\n", going, u.Patience)
			return nil
		case going != "":
			gone = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(u.Every):
		}
	}
	if err := unlockNamespaces(ctx, client, unlocking{asideOnly: true}, out); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "unlocked, for callguard was uninstalled")
	return nil
}

// installed returns the name of one object of an install that exists, and of one that is
// being deleted; empty if there is none.
func installed(ctx context.Context, client kubernetes.Interface, doors *manifests.Doors, namespace string) (standing, going string, err error) {
	look := func(what string, is metav1.Object, err error) error {
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("cannot tell whether %s is there: %w", what, err)
		case is.GetDeletionTimestamp() != nil:
			going = what
		default:
			standing = what
		}
		return nil
	}
	d, err := client.AppsV1().Deployments(namespace).Get(ctx, call.GuardName, metav1.GetOptions{})
	err = look(fmt.Sprintf("Deployment %s/%s", namespace, call.GuardName), d, err)
	for _, door := range doors.Policies {
		p, getErr := client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, door.Name, metav1.GetOptions{})
		err = errors.Join(err, look("ValidatingAdmissionPolicy "+door.Name, p, getErr))
	}
	return standing, going, err
}

// unlocking says what an unlock does to a namespace.
type unlocking struct {
	keepBudget bool // it is changed so that it allows evictions, and kept
	asideOnly  bool // pods that are not aside stay as they are, so that an install locks them again
}

func unlockNamespaces(ctx context.Context, client kubernetes.Interface, u unlocking, out io.Writer) error {
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: call.EnabledLabel + "=true"})
	if err != nil {
		return fmt.Errorf("cannot list the enabled namespaces: %w", err)
	}
	var errs []error
	for _, ns := range namespaces.Items {
		if ns.DeletionTimestamp == nil {
			errs = append(errs, unlockNamespace(ctx, client, ns.Name, u, out))
		}
	}
	return errors.Join(errs...)
}

func unlockNamespace(ctx context.Context, client kubernetes.Interface, namespace string, u unlocking, out io.Writer) error {
	s, err := liveNamespace(ctx, client, namespace)
	if err != nil {
		return err
	}
	steps := &steps{client: client}
	released, back := 0, 0
	var deaf []string
	var errs []error
	for _, pod := range s.pods {
		m := s.member(pod)
		if m.Terminating {
			continue
		}
		if !m.draining.IsZero() {
			deaf = append(deaf, m.Name)
		}
		if !m.aside && (u.asideOnly || m.State == call.Released) {
			continue
		}
		err := retry.OnError(retry.DefaultBackoff, apierrors.IsConflict, func() error {
			now, err := client.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) || err == nil && now.UID != pod.UID {
				return nil
			}
			if err != nil {
				return err
			}
			_, err = steps.handBack(ctx, now)
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot unlock pod %s/%s: %w", namespace, pod.Name, err))
			continue
		}
		released++
		if m.aside {
			back++
		}
	}
	floor, err := openBudget(ctx, client, namespace, s, u.keepBudget)
	errs = append(errs, err)
	budget := "removed"
	if u.keepBudget {
		budget = fmt.Sprintf("down to minAvailable %d, because policy callguard-birth still requires it", floor)
	}
	_, _ = fmt.Fprintf(out, "namespace %s: %d pods unlocked, %d of them handed back to their ReplicaSets, which delete what they have too many of; budget %s\n",
		namespace, released, back, budget)
	if len(deaf) > 0 {
		slices.Sort(deaf)
		_, _ = fmt.Fprintf(out, "namespace %s: %d pods accept no new calls, for good; when their calls have ended, replace those that are left: kubectl delete pod --ignore-not-found -n %s %s\n",
			namespace, len(deaf), namespace, strings.Join(deaf, " "))
	}
	return errors.Join(errs...)
}

// openBudget sets the budget of a namespace to what its workloads need while one
// pod of each is replaced, and removes it unless it is needed.
func openBudget(ctx context.Context, client kubernetes.Interface, namespace string, s *snapshot, needed bool) (floor int, err error) {
	seen := map[Key]bool{}
	for _, pod := range s.pods {
		key := s.top(pod)
		if seen[key] || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		seen[key] = true
		w := s.workload(key)
		floor += verdict.Floor(call.NodeDrain, verdict.Workload{Desired: w.desired, MinAvailable: w.minAvailable}, true)
	}
	budgets := client.PolicyV1().PodDisruptionBudgets(namespace)
	err = retry.OnError(retry.DefaultBackoff, apierrors.IsConflict, func() error {
		pdb, err := budgets.Get(ctx, BudgetName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		pdb.Spec.MinAvailable = new(intstr.FromInt(floor))
		if pdb, err = budgets.Update(ctx, pdb, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil || needed {
			return err
		}
		return budgets.Delete(ctx, BudgetName, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pdb.UID}})
	})
	if err != nil {
		return floor, fmt.Errorf("cannot open the budget of namespace %s: %w", namespace, err)
	}
	return floor, nil
}
