// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
)

const (
	// ReasonEndedByHand is the reason of the Event about who ended a held pod, and why.
	ReasonEndedByHand = "EndedByHand"
	// endSource is the source of that Event.
	endSource = "kubectl-calls"
	// maxEvent is the maximum length of its text, by Kubernetes' rules.
	maxEvent = 1024
)

// endOptions are the values of end's flags.
type endOptions struct {
	*common

	reason string
	yes    bool
}

func newEnd(c *common) *cobra.Command {
	o := &endOptions{common: c}
	cmd := &cobra.Command{
		Use: "end POD", Short: "End a pod that is held, with its calls (break glass)", Args: oneName("pod"),
		Long: "Deletes a guarded pod although it holds calls. Its calls end, at the latest after its full termination grace period.\n" +
			"It is for members of the break-glass group who may delete pods and create Events. It says how many calls end, asks, " +
			"and writes an Event with who did it and why. To let a pod leave after its last call, use instead:\n" +
			"kubectl annotate pod POD callguard.dev/leave=",
		Example: `  kubectl calls end agent-77594dd9bf-lp467 -n voice --reason "stuck in a loop, ticket 4711" \` + "\n" +
			`    --as="$USER" --as-group=callguard:break-glass --as-group=GROUP_THAT_MAY_DELETE_PODS`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.reason = strings.TrimSpace(o.reason); o.reason == "" {
				return errors.New(`--reason is empty; say why, such as --reason "ticket 4711"`)
			}
			namespace, _, err := c.namespace()
			if err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cl, namespace, podName(args[0]))
		},
	}
	cmd.Flags().StringVar(&o.reason, "reason", o.reason, "Why the calls are ended; written into the Event.")
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", o.yes, "Do not ask for confirmation.")
	return cmd
}

func (o *endOptions) run(ctx context.Context, c *cluster, namespace, name string) error {
	pod, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no pod %q in namespace %s; kubectl calls -A lists the guarded pods", name, namespace)
	case err != nil:
		return fmt.Errorf("cannot read pod %s/%s: %w", namespace, name, err)
	case !isGuarded(pod):
		return fmt.Errorf("pod %s/%s is not guarded, and callguard does not hold it; kubectl delete pod ends it", namespace, name)
	case !admission.Locked(pod):
		return fmt.Errorf("pod %s/%s is not held: it was released, is terminating, or has no running container", namespace, name)
	}
	who, err := c.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot tell who you are: %w; nothing was changed", err)
	}
	group := c.administered(ctx).doors.BreakGlassGroup
	if !c.memberOf(ctx, group) {
		return fmt.Errorf("you are not a member of group %s, and only members may end pod %s/%s; nothing was changed; for members: --as=USER --as-group=%s", group, namespace, name, group)
	}
	counted := c.calls(ctx, namespace).of(name)
	event := o.event(pod, who.Status.UserInfo.Username, counted, c.now())
	events := c.client.CoreV1().Events(namespace)
	if _, err := events.Create(ctx, event, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		return fmt.Errorf("cannot write an Event about who ended pod %s/%s and why: %w; nothing was changed", namespace, name, err)
	}
	_, _ = fmt.Fprintf(o.Out, "%s/%s on %s: %s. What calls it holds end with it, within its grace of %d s.\n", namespace, name, pod.Spec.NodeName, held(counted), ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds))
	if !o.yes {
		if err := o.ask(name); err != nil {
			return err
		}
	}
	// No grace period is given, so the pod's own applies.
	if err := c.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}}); err != nil {
		return fmt.Errorf("pod %s/%s was not ended: %w", namespace, name, err)
	}
	_, _ = fmt.Fprintf(o.Out, "pod/%s ends\n", name)
	if _, err := events.Create(ctx, event, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("pod %s/%s ends, but no Event could be written about who ended it and why: %w", namespace, name, err)
	}
	return nil
}

// held returns text about how many calls a pod holds; unknown is not zero.
func held(calls call.Reading) string {
	switch n, known := calls.Calls(); {
	case !known:
		return "how many calls it holds is not known: " + calls.Reason()
	case n == 0:
		return "the metrics API knows of no call of it"
	default:
		return "it holds " + plural(n, "call")
	}
}

// ask makes the user type the pod's name, so that a pasted line ends no call.
func (o *endOptions) ask(name string) error {
	_, _ = fmt.Fprint(o.Out, "To end it, type the pod's name: ")
	text, err := bufio.NewReader(o.In).ReadString('\n')
	if strings.TrimSpace(text) == name {
		return nil
	}
	if err != nil && text == "" {
		return errors.New("no answer; nothing was changed; use --yes to skip the question")
	}
	return errors.New("that is not its name; nothing was changed")
}

// event returns the Event about who ended a pod, with how many calls, and why.
func (o *endOptions) event(pod *corev1.Pod, who string, calls call.Reading, now time.Time) *corev1.Event {
	at := metav1.NewTime(now)
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: pod.Name + "."},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Type:           corev1.EventTypeWarning, Reason: ReasonEndedByHand, Source: corev1.EventSource{Component: endSource},
		Message:        call.Plain(fmt.Sprintf("Pod %s/%s was ended by %s; %s: %s", pod.Namespace, pod.Name, who, held(calls), o.reason), maxEvent),
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}
