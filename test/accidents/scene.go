// SPDX-License-Identifier: Apache-2.0

// Package accidents lists what happens to the objects that callguard owns or relies on
// in real clusters: each is deleted, replaced, changed or restored, by a person, a GitOps
// tool or the garbage collector. Each row says what happens to calls, who notices and
// what restores the object. test/accidents/live plays them all in the middle of a drain; docs/lock.md
// has them as a table.
//
// The package starts no cluster and asserts nothing.
package accidents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/lab"
)

// Scene is the environment of a row.
type Scene struct {
	// Context of the row.
	Context context.Context
	Lab     *lab.Lab
	// Guard is the running drain-guard.
	Guard *lab.Guard
	// Namespace has pods with calls, and one of its nodes is being drained.
	Namespace string
	// Quiet has a pod with a call, on a node that is not drained.
	Quiet string
	// Talking are the pods of Namespace that have calls and whose node is drained.
	Talking []string
	// Dir is for files.
	Dir string
	// Began is when the row's act began.
	Began time.Time
}

// Run runs kubectl as an administrator.
func (s *Scene) Run(args ...string) error {
	_, err := s.Lab.Kubectl(s.Context, args...)
	return err
}

// Break runs kubectl as a member of the break-glass group.
func (s *Scene) Break(args ...string) error {
	_, err := s.Lab.KubectlAs(s.Context, "breaker", []string{"system:masters", lab.BreakGlassGroup}, args...)
	return err
}

// Save writes an object to a file that can be applied again, and returns its path. It may be changed
// first.
func (s *Scene) Save(change func(map[string]any), args ...string) (string, error) {
	out, err := s.Lab.Kubectl(s.Context, append([]string{"get", "-o", "json"}, args...)...)
	if err != nil {
		return "", err
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(out), &object); err != nil {
		return "", fmt.Errorf("kubectl get %v gives no object: %w", args, err)
	}
	meta, _ := object["metadata"].(map[string]any)
	for _, key := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink"} {
		delete(meta, key)
	}
	delete(object, "status")
	if change != nil {
		change(object)
	}
	text, err := json.Marshal(object)
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp(s.Dir, "*.json")
	if err != nil {
		return "", err
	}
	_, err = file.Write(text)
	return file.Name(), errors.Join(err, file.Close())
}

// Apply applies a file of manifests, as an administrator who installs again.
func (s *Scene) Apply(name string) error {
	path := name
	if !filepath.IsAbs(name) {
		var err error
		if path, err = lab.Manifest(name); err != nil {
			return err
		}
	}
	return s.Run("apply", "--server-side", "--force-conflicts", "-f", path)
}

// Says reports whether a metric of the guard is at least this high.
func (s *Scene) Says(name string, least float64) error {
	m, err := s.Guard.Metrics(s.Context)
	if err != nil {
		return err
	}
	if got := m.Sum(name); got < least {
		return fmt.Errorf("%s is %v", name, got)
	}
	return nil
}

// DoorsShut is nil while the guard reports the policies in effect, and is ready.
func (s *Scene) DoorsShut() error {
	return errors.Join(s.Guard.Ready(s.Context), s.Says("callguard_policies_in_force", 1))
}

// DoorsOpen is nil when the guard's readiness, its metric and an Event on its Deployment name a
// policy that is not in effect.
func (s *Scene) DoorsOpen(door string) error {
	ready := s.Guard.Ready(s.Context)
	if ready == nil || !strings.Contains(ready.Error(), door) {
		return fmt.Errorf("the guard's readiness says: %w", errors.Join(ready, errors.New("not "+door)))
	}
	if s.Says("callguard_policies_in_force", 1) == nil {
		return errors.New("callguard_policies_in_force is 1")
	}
	return s.Event(lab.GuardNamespace, lab.GuardName, admission.ReasonNotInForce, door)
}

// Event is nil once the row has caused an Event on an object, with this reason and text.
func (s *Scene) Event(namespace, name, reason, text string) error {
	list, err := s.Lab.Client.CoreV1().Events(namespace).List(s.Context, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.name": name, "reason": reason}.String(),
	})
	if err != nil {
		return err
	}
	for _, e := range list.Items {
		if !e.LastTimestamp.Time.Before(s.Began.Truncate(time.Second)) && strings.Contains(e.Message, text) {
			return nil
		}
	}
	return fmt.Errorf("there is no Event %s on %s/%s with %q", reason, namespace, name, text)
}

// Locked is nil while a namespace's budget protects its pods.
func (s *Scene) Locked(namespace string) error {
	pdb, err := s.Lab.Client.PolicyV1().PodDisruptionBudgets(namespace).Get(s.Context, guard.BudgetName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return guard.BudgetLocks(pdb)
}

// Doctor is nil when `kubectl calls doctor` prints a text.
func (s *Scene) Doctor(text string) error {
	cmd, err := s.Lab.AdminCalls(s.Context, "doctor")
	if err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	if !strings.Contains(strings.Join(strings.Fields(string(out)), " "), text) {
		return fmt.Errorf("doctor does not say %q, but: %s (%w)", text, out, errors.Join(err, errors.New("it ended")))
	}
	return nil
}

// There is nil while an object exists and is not being deleted.
func (s *Scene) There(args ...string) error {
	out, err := s.Lab.Kubectl(s.Context, append([]string{"get", "-o", "jsonpath={.metadata.deletionTimestamp}"}, args...)...)
	if err == nil && strings.TrimSpace(out) != "" {
		return fmt.Errorf("%v is being deleted", args)
	}
	return err
}
