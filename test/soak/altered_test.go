// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/accidents"
	"github.com/callguard/callguard/test/lab"
)

// healedWithin is how long callguard, or a person, may take until all is as it was.
const healedWithin = 2 * time.Minute

// alterations are the accidents of docs/lock.md that a kind of step chooses from. Those that leave calls without any lock, such as
// both policies of a deletion gone, are not among them: what they cost would not be callguard's.
func alterations(kind Kind) []accidents.Row {
	objects := map[Kind][]string{
		AlterPolicy: {"Policy `", "Binding `", "MutatingAdmissionPolicy `"},
		AlterBudget: {"PodDisruptionBudget `", "A second PodDisruptionBudget", "ClusterRole `callguard-budget-owner`"},
		AlterRights: {"ClusterRole `callguard:drain-guard`", "ClusterRoleBinding `callguard:drain-guard`", "Role `callguard:drain-guard`"},
		AlterKey:    {"Secret of the default LiveKit project"},
		AlterLabels: {"Namespace", "Pod label", "Pod annotation"},
	}[kind]
	rows := slices.DeleteFunc(accidents.Rows(), func(r accidents.Row) bool {
		return kind == AlterLabels && r.Refused == "" ||
			!slices.ContainsFunc(objects, func(object string) bool { return strings.HasPrefix(r.Object, object) })
	})
	if kind == AlterLabels {
		rows = append(rows, strayed())
	}
	return rows
}

// strayed is a pod that loses the label by which its ReplicaSet knows it, and gets it back.
func strayed() accidents.Row {
	label := func(s *accidents.Scene, to string) error {
		return s.Run("label", "pod", s.Talking[0], "-n", s.Namespace, to)
	}
	return accidents.Row{
		Object: "Pod label `app`", What: "removed by a member of the namespace's team, and put back",
		Do:   func(s *accidents.Scene) error { return label(s, "app-") },
		Mend: func(s *accidents.Scene) error { return label(s, "app="+lab.AgentName) },
		Healed: func(s *accidents.Scene) error {
			_, err := s.Lab.Client.CoreV1().Pods(s.Namespace).Get(s.Context, s.Talking[0], metav1.GetOptions{})
			return err
		},
	}
}

// alter plays an accident, and has all as it was after the step's time, also when the run is over.
func (p *player) alter(ctx context.Context, s Step) (string, error) {
	p.plane.Lock()
	defer p.plane.Unlock()
	if ctx.Err() != nil {
		return "", passedOver("the run was over before the fault before it was")
	}
	always, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(s.For)+2*healedWithin)
	defer cancel()
	dir, err := os.MkdirTemp("", "callguard-soak-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	scene := &accidents.Scene{Context: always, Lab: p.stage, Guard: p.stage.Guard, Namespace: namespaceOf(s.Workload), Quiet: namespaceOf(s.Workload), Dir: dir, Began: time.Now()}
	if s.Workload == "" { // of all, one shows it
		scene.Namespace = namespaceOf(Python)
	}
	if s.Kind == AlterLabels {
		a, ok := p.pick(s)
		if !ok {
			return "", passedOver("there is no agent")
		}
		scene.Talking = []string{a.Pod.Name}
	}
	rows := alterations(s.Kind)
	row := rows[s.Pick%len(rows)]
	return row.Name(), p.accident(ctx, scene, row, s.For)
}

func (p *player) accident(ctx context.Context, scene *accidents.Scene, row accidents.Row, lasts Offset) error {
	err := row.Do(scene)
	switch {
	case p.leaves(scene):
		return passedOver(row.Name() + ": its pod was about to go")
	case row.Refused != "" && (err == nil || !strings.Contains(err.Error(), "'"+row.Refused)):
		return fmt.Errorf("%s: want a refusal by %s, got: %w", row.Name(), row.Refused, errors.Join(err, errors.New("it ended")))
	case row.Refused == "" && err != nil:
		return err
	}
	if row.Refused == "" {
		p.pause(ctx, lasts)
	}
	if row.Mend != nil {
		if err := row.Mend(scene); err != nil && !p.leaves(scene) {
			return err
		}
	}
	err = lab.Eventually(context.WithoutCancel(ctx), healedWithin, row.Name()+" is healed", func() (bool, error) {
		var errs []error
		for _, guard := range p.guards.all() { // one may be dead or paused
			scene.Guard = guard
			err := row.Healed(scene)
			if err == nil {
				return true, nil
			}
			errs = append(errs, err)
		}
		return false, errors.Join(errs...)
	})
	if err != nil && p.leaves(scene) {
		return nil
	}
	return err
}

// leaves reports whether the pod of a scene has gone or was let go: nothing protects it any more.
func (p *player) leaves(scene *accidents.Scene) bool {
	if len(scene.Talking) == 0 {
		return false
	}
	pod, err := p.stage.Client.CoreV1().Pods(scene.Namespace).Get(scene.Context, scene.Talking[0], metav1.GetOptions{})
	return apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || call.StateOf(pod.Labels, pod.Annotations) == call.Released)
}
