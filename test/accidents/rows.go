// SPDX-License-Identifier: Apache-2.0

package accidents

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/test/lab"
)

// Row is one accident.
type Row struct {
	// Object and What name it, in the docs and in the test.
	Object, What string
	// Notices and Heals name who notices it and what restores the object.
	Notices, Heals string
	// Refused is the policy that refuses the act; empty if it is not refused.
	Refused string
	// Opens says why calls may be lost until the object is restored; empty if they cannot be.
	Opens string

	Do func(*Scene) error
	// Noticed returns nil once it is noticed. The function is nil if nobody has to notice.
	Noticed func(*Scene) error
	// Mend is what a person does. It is nil if callguard or Kubernetes restores the object.
	Mend func(*Scene) error
	// Healed returns nil when everything is as before.
	Healed func(*Scene) error
}

// Name is the name of the row's test.
func (r Row) Name() string { return r.Object + ", " + r.What }

// The user of the act.
const (
	person = "by an administrator"
	editor = "by a member of the namespace's team"
	gitops = "by a forced sync"
	breaks = "by break-glass"
)

const (
	alerted  = "drain-guard at once: not ready, Event `PoliciesNotInForce`, alert `CallguardPoliciesNotInForce` within 30 s"
	again    = "applying the chart again"
	nothing  = "nothing has to"
	asker    = "whoever asked is refused"
	inSecond = "drain-guard, within a second"
	policy   = "validatingadmissionpolicy"
	binding  = "validatingadmissionpolicybinding"
	pdb      = "PodDisruptionBudget `callguard`"
	owner    = "ClusterRole `callguard-budget-owner`"
)

func shut(s *Scene) error { return s.DoorsShut() }

func locked(s *Scene) error { return s.Locked(s.Namespace) }

func doors(s *Scene) error { return s.Apply("doors.yaml") }

// refused is an act that a policy refuses.
func refused(object, what, door string, do func(*Scene) error) Row {
	return Row{Object: object, What: what, Notices: asker + " by `" + door + "`", Heals: nothing, Refused: door, Do: do, Healed: func(s *Scene) error {
		return errors.Join(s.DoorsShut(), s.Locked(s.Namespace))
	}}
}

// taken deletes a policy or a binding.
func taken(kind, name, opens string) Row {
	words := map[string]string{policy: "Policy", binding: "Binding"}[kind]
	return Row{
		Object: words + " `" + name + "`", What: "deleted " + person, Notices: alerted, Heals: again, Opens: opens,
		Do:      func(s *Scene) error { return s.Run("delete", kind, name) },
		Noticed: func(s *Scene) error { return s.DoorsOpen(name) }, Mend: doors, Healed: shut,
	}
}

// altered changes a policy or a binding so that it refuses less than it should.
func altered(kind, name, what, patch, opens string) Row {
	words := map[string]string{policy: "Policy", binding: "Binding"}[kind]
	return Row{
		Object: words + " `" + name + "`", What: what, Notices: alerted, Heals: again, Opens: opens,
		Do:      func(s *Scene) error { return s.Run("patch", kind, name, "--type=json", "-p", patch) },
		Noticed: func(s *Scene) error { return s.DoorsOpen(name + " is not as this version of callguard has it") }, Mend: doors, Healed: shut,
	}
}

// without deletes an object whose absence nobody has to notice.
func without(object, notices string, args ...string) Row {
	saved := ""
	return Row{
		Object: object, What: "deleted " + person, Notices: notices, Heals: again,
		Do: func(s *Scene) error {
			var err error
			if saved, err = s.Save(nil, args...); err != nil {
				return err
			}
			return s.Run(append([]string{"delete", "--wait=false"}, args...)...)
		},
		Mend:   func(s *Scene) error { return s.Run("create", "-f", saved) },
		Healed: func(s *Scene) error { return errors.Join(s.There(args...), s.DoorsShut()) },
	}
}

// Rows returns all accidents, in the order in which they are played.
func Rows() []Row {
	var rows []Row
	for _, part := range [][]Row{policies(), bindings(), words(), budgets(), owners(), namespaces(), pods(), rights(), others(), leases(), workloads(), processes()} {
		rows = append(rows, part...)
	}
	return rows
}

func policies() []Row {
	return []Row{
		taken(policy, "callguard-delete", ""),
		taken(policy, "callguard-delete-too", ""),
		taken(policy, "callguard-birth", "a pod may be created before its budget, or as a released one"),
		taken(policy, "callguard-eviction", ""),
		taken(policy, "callguard-namespaces", ""),
		taken(policy, "callguard-priority", "pods that hold no calls may preempt others"),
		taken(policy, "callguard-keep-grace", "whoever may delete pods may shorten the grace period of those that keep theirs"),
		taken(policy, "callguard-leash", "drain-guard's account may do whatever RBAC allows"),
		taken(policy, "callguard-tamper-pods", "whoever may edit pods may release one"),
		taken(policy, "callguard-tamper-binding", "whoever may bind pods may release one at its creation"),
		taken(policy, "callguard-tamper-budget", "whoever may edit budgets may delete the budget; `callguard-eviction` then refuses evictions"),
		{
			Object: "Policies `callguard-delete` and `callguard-delete-too`", What: "both deleted " + person, Notices: alerted, Heals: again,
			Opens:   "every deletion goes through",
			Do:      func(s *Scene) error { return s.Run("delete", policy, "callguard-delete", "callguard-delete-too") },
			Noticed: func(s *Scene) error { return s.DoorsOpen("callguard-delete") }, Mend: doors, Healed: shut,
		},
		without("Policy `callguard-birth-advice`", "nobody: it warns, and holds nobody", policy, "callguard-birth-advice"),
		without("Policy `callguard-workload-advice`", "nobody: it warns, and holds nobody", policy, "callguard-workload-advice"),
		without("Policy `callguard-budget-advice`", "nobody: it warns, and holds nobody", policy, "callguard-budget-advice"),
		{
			Object: "MutatingAdmissionPolicy `callguard-grace`", What: "deleted " + person, Notices: alerted, Heals: again,
			Opens:   "an eviction may shorten the grace period of a released pod",
			Do:      func(s *Scene) error { return s.Run("delete", "mutatingadmissionpolicy", "callguard-grace") },
			Noticed: func(s *Scene) error { return s.DoorsOpen("callguard-grace") }, Mend: doors, Healed: shut,
		},
		{
			Object: "MutatingAdmissionPolicy `callguard-grace` and its binding", What: "both deleted " + person, Notices: "`kubectl calls doctor`, drain-guard's log", Heals: again,
			Opens: "an eviction may shorten the grace period of a released pod",
			Do: func(s *Scene) error {
				return errors.Join(s.Run("delete", "mutatingadmissionpolicy", "callguard-grace"), s.Run("delete", "mutatingadmissionpolicybinding", "callguard-grace"))
			},
			Noticed: func(s *Scene) error {
				return s.Doctor("callguard-grace are missing")
			},
			Mend: doors, Healed: shut,
		},
		altered(policy, "callguard-delete", "changed "+person+": `failurePolicy: Ignore`", `[{"op":"replace","path":"/spec/failurePolicy","value":"Ignore"}]`, ""),
		altered(policy, "callguard-delete-too", "changed "+person+": an expression is `true`", `[{"op":"replace","path":"/spec/validations/0/expression","value":"true"}]`, ""),
		altered(policy, "callguard-birth", "restored from a backup of another version", `[{"op":"replace","path":"/metadata/labels/app.kubernetes.io~1version","value":"0.0.1"},{"op":"remove","path":"/spec/validations/1"}]`,
			"the protections that the other version lacks are missing"),
		{
			Object: "Policy `callguard-delete`", What: "replaced with the same " + gitops, Notices: "nobody has to: the other is in effect meanwhile", Heals: "the sync itself",
			Do: func(s *Scene) error {
				saved, err := s.Save(nil, policy, "callguard-delete")
				if err != nil {
					return err
				}
				return s.Run("replace", "--force", "-f", saved)
			},
			Healed: shut,
		},
	}
}

func bindings() []Row {
	return []Row{
		taken(binding, "callguard-delete", ""),
		taken(binding, "callguard-delete-too", ""),
		taken(binding, "callguard-birth-needs-pdb-callguard", "a pod may be created before its budget, or as a released one"),
		taken(binding, "callguard-eviction-needs-pdb-callguard", ""),
		taken(binding, "callguard-namespaces", ""),
		taken(binding, "callguard-priority", "pods that hold no calls may preempt others"),
		taken(binding, "callguard-keep-grace", "whoever may delete pods may shorten the grace period of those that keep theirs"),
		taken(binding, "callguard-leash", "drain-guard's account may do whatever RBAC allows"),
		taken(binding, "callguard-tamper-pods", "whoever may edit pods may release one"),
		taken(binding, "callguard-tamper-budget", "whoever may edit budgets may delete the budget; `callguard-eviction` then refuses evictions"),
		altered(binding, "callguard-delete", "changed "+person+": it only audits", `[{"op":"replace","path":"/spec/validationActions","value":["Audit"]}]`, ""),
		altered(binding, "callguard-eviction-needs-pdb-callguard", "changed "+person+": a missing budget allows", `[{"op":"replace","path":"/spec/paramRef/parameterNotFoundAction","value":"Allow"}]`, ""),
	}
}

func words() []Row {
	return []Row{{
		Object: "Policy `callguard-delete`", What: "its messages are those of another version", Notices: "nobody: it protects the same, so releases go on", Heals: nothing,
		Do: func(s *Scene) error {
			return s.Run("patch", policy, "callguard-delete", "--type=json", "-p",
				`[{"op":"replace","path":"/spec/validations/0/message","value":"no"},{"op":"replace","path":"/metadata/labels/app.kubernetes.io~1version","value":"9.9.9"}]`)
		},
		Mend: doors, Healed: shut,
	}}
}

func budgets() []Row {
	const held = "callguard-tamper-budget"
	lost := func(s *Scene) error { return s.Event(s.Namespace, guard.BudgetName, guard.ReasonBudget, s.Namespace) }
	return []Row{
		refused(pdb, "deleted "+person, held, func(s *Scene) error { return s.Run("delete", "pdb", guard.BudgetName, "-n", s.Namespace) }),
		refused(pdb, "deleted with all others of its namespace "+person, held, func(s *Scene) error { return s.Run("delete", "pdb", "--all", "-n", s.Namespace) }),
		refused(pdb, "changed "+person, held, func(s *Scene) error {
			return s.Run("patch", "pdb", guard.BudgetName, "-n", s.Namespace, "--type=merge", "-p", `{"spec":{"minAvailable":0}}`)
		}),
		refused(pdb, "its status is written "+person+", so that a pod may be evicted", held, func(s *Scene) error {
			return s.Run("patch", "pdb", guard.BudgetName, "-n", s.Namespace, "--subresource=status", "--type=merge", "-p", `{"status":{"disruptionsAllowed":9}}`)
		}),
		refused(pdb, "replaced "+gitops, held, func(s *Scene) error {
			saved, err := s.Save(nil, "pdb", guard.BudgetName, "-n", s.Namespace)
			if err != nil {
				return err
			}
			return s.Run("replace", "--force", "-f", saved)
		}),
		refused(pdb, "restored from a backup with its former owner", held, func(s *Scene) error {
			saved, err := s.Save(func(o map[string]any) {
				meta, _ := o["metadata"].(map[string]any)
				meta["ownerReferences"] = []any{map[string]any{
					"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": guard.BudgetOwner, "uid": "00000000-0000-0000-0000-000000000000",
				}}
			}, "pdb", guard.BudgetName, "-n", s.Namespace)
			if err != nil {
				return err
			}
			return s.Run("replace", "-f", saved)
		}),
		{
			Object: pdb, What: "deleted " + breaks, Notices: "drain-guard: Event `BudgetNotInForce` in the namespace", Heals: inSecond + "; until then policy `callguard-eviction` refuses evictions",
			Do:      func(s *Scene) error { return s.Break("delete", "pdb", guard.BudgetName, "-n", s.Namespace) },
			Noticed: lost, Healed: locked,
		},
		{
			Object: pdb, What: "changed " + breaks, Notices: "drain-guard: Event `BudgetNotInForce` in the namespace", Heals: inSecond,
			Do: func(s *Scene) error {
				return s.Break("patch", "pdb", guard.BudgetName, "-n", s.Namespace, "--type=merge", "-p", `{"spec":{"selector":{"matchLabels":{"other":"pods"}}}}`)
			},
			Noticed: lost, Healed: locked,
		},
		{
			Object: "A second PodDisruptionBudget for guarded pods", What: "created " + editor, Notices: "drain-guard: Event `ForeignBudget`, alert `CallguardForeignBudget`; evictions answer 500, on which `kubectl drain` gives up", Heals: "deleting it",
			Do: func(s *Scene) error {
				return s.Run("create", "pdb", "second", "-n", s.Namespace, "--selector=app="+lab.AgentName, "--min-available=1")
			},
			Noticed: func(s *Scene) error { return s.Says("callguard_foreign_budgets", 1) },
			Mend:    func(s *Scene) error { return s.Run("delete", "pdb", "second", "-n", s.Namespace) },
			Healed: func(s *Scene) error {
				if s.Says("callguard_foreign_budgets", 1) == nil {
					return errors.New("it is seen still")
				}
				return s.Locked(s.Namespace)
			},
		},
	}
}

func owners() []Row {
	saved := ""
	missing := func(s *Scene) error {
		return errors.Join(s.Says("callguard_budget_owner_missing", 1), s.Event(lab.GuardNamespace, lab.GuardName, guard.ReasonBudgetOwner, guard.BudgetOwner))
	}
	adopted := func(s *Scene) error {
		role, err := s.Lab.Client.RbacV1().ClusterRoles().Get(s.Context, guard.BudgetOwner, metav1.GetOptions{})
		if err != nil {
			return err
		}
		is, err := s.Lab.Client.PolicyV1().PodDisruptionBudgets(s.Namespace).Get(s.Context, guard.BudgetName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(is.OwnerReferences) != 1 || is.OwnerReferences[0].UID != role.UID {
			return fmt.Errorf("the budget belongs to %v, not to %s", is.OwnerReferences, role.UID)
		}
		return guard.BudgetLocks(is)
	}
	return []Row{
		{
			Object: owner, What: "deleted " + person + ", and the garbage collector wants its budgets", Notices: "drain-guard: Event `BudgetOwnerMissing`, alert `CallguardBudgetOwnerMissing`; policy `callguard-tamper-budget` refuses the collector",
			Heals: again + "; drain-guard then hands the budgets over",
			Do: func(s *Scene) error {
				var err error
				if saved, err = s.Save(nil, "clusterrole", guard.BudgetOwner); err != nil {
					return err
				}
				return s.Run("delete", "clusterrole", guard.BudgetOwner)
			},
			Noticed: func(s *Scene) error { return errors.Join(missing(s), s.Locked(s.Namespace)) },
			Mend:    func(s *Scene) error { return s.Run("create", "-f", saved) }, Healed: adopted,
		},
		{
			Object: owner, What: "replaced " + gitops, Notices: "nobody has to: policy `callguard-tamper-budget` refuses the collector", Heals: inSecond + ": the budgets then belong to the new one",
			Do: func(s *Scene) error {
				path, err := s.Save(nil, "clusterrole", guard.BudgetOwner)
				if err != nil {
					return err
				}
				return s.Run("replace", "--force", "-f", path)
			},
			Healed: adopted,
		},
		{
			Object: owner, What: "changed " + person + ": it grants something", Notices: "nobody: it is bound to nobody", Heals: again,
			Do: func(s *Scene) error {
				return s.Run("patch", "clusterrole", guard.BudgetOwner, "--type=merge", "-p", `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`)
			},
			Mend: doors, Healed: adopted,
		},
	}
}

func namespaces() []Row {
	const door = "callguard-namespaces"
	return []Row{
		refused("Namespace label `callguard.dev/enabled`", "removed "+person, door, func(s *Scene) error {
			return s.Run("label", "namespace", s.Namespace, "callguard.dev/enabled-")
		}),
		refused("Namespace label `callguard.dev/enabled`", "changed to `True` "+person, door, func(s *Scene) error {
			return s.Run("label", "--overwrite", "namespace", s.Namespace, "callguard.dev/enabled=True")
		}),
		refused("Namespace", "replaced by an older manifest without the label, "+gitops, door, func(s *Scene) error {
			saved, err := s.Save(func(o map[string]any) {
				meta, _ := o["metadata"].(map[string]any)
				delete(meta, "labels")
			}, "namespace", s.Namespace)
			if err != nil {
				return err
			}
			return s.Run("replace", "-f", saved)
		}),
		{
			Object: "Namespace label `callguard.dev/enabled`", What: "removed " + person + " with `callguard.dev/disable`, and put back", Notices: "nobody: it was intended", Heals: inSecond + " of the label's return",
			Opens: "as intended: nothing protects calls there until the label is back",
			Do: func(s *Scene) error {
				return errors.Join(s.Run("annotate", "namespace", s.Quiet, "callguard.dev/disable=true"), s.Run("label", "namespace", s.Quiet, "callguard.dev/enabled-"))
			},
			Noticed: func(s *Scene) error {
				if s.Locked(s.Quiet) == nil {
					return errors.New("the budget is there still")
				}
				return nil
			},
			Mend: func(s *Scene) error {
				return errors.Join(s.Run("label", "namespace", s.Quiet, "callguard.dev/enabled=true"), s.Run("annotate", "namespace", s.Quiet, "callguard.dev/disable-"))
			},
			Healed: func(s *Scene) error { return s.Locked(s.Quiet) },
		},
	}
}

func pods() []Row {
	const held, fixed = "callguard-delete", "callguard-tamper-pods"
	on := func(s *Scene, verb string, args ...string) error {
		return s.Run(append([]string{verb, "pod", s.Talking[0], "-n", s.Namespace}, args...)...)
	}
	return []Row{
		refused("Pod with a call", "deleted "+person, held, func(s *Scene) error { return on(s, "delete", "--wait=false") }),
		refused("Pod with a call", "deleted with `--force --grace-period=0` "+person, held, func(s *Scene) error { return on(s, "delete", "--force", "--grace-period=0", "--wait=false") }),
		refused("Pod with a call", "replaced "+gitops, held, func(s *Scene) error {
			saved, err := s.Save(nil, "pod", s.Talking[0], "-n", s.Namespace)
			if err != nil {
				return err
			}
			return s.Run("replace", "--force", "--wait=false", "-f", saved)
		}),
		refused("Pod label `callguard.dev/released`", "set "+editor, fixed, func(s *Scene) error { return on(s, "label", "callguard.dev/released=drain") }),
		refused("Pod label `callguard.dev/guarded`", "removed "+editor, fixed, func(s *Scene) error { return on(s, "label", "callguard.dev/guarded-") }),
		refused("Pod annotation `callguard.dev/witnesses`", "changed "+editor, fixed, func(s *Scene) error { return on(s, "annotate", "callguard.dev/witnesses=worker") }),
	}
}

func rights() []Row {
	const until = "nobody, until a pod should leave: Event `Held`, alert `CallguardStepRefused`; drain-guard's log"
	return []Row{
		without("ClusterRole `callguard:drain-guard`", until, "clusterrole", "callguard:drain-guard"),
		without("ClusterRoleBinding `callguard:drain-guard`", until, "clusterrolebinding", "callguard:drain-guard"),
		without("Role `callguard:drain-guard` in kube-node-lease", "nobody, until a node is lost: its pods are held", "role", "callguard:drain-guard", "-n", "kube-node-lease"),
		{
			Object: "ClusterRole `callguard:drain-guard`", What: "changed " + person + ": no right to patch pods", Notices: until, Heals: again,
			Do: func(s *Scene) error {
				return s.Run("patch", "clusterrole", "callguard:drain-guard", "--type=json", "-p", `[{"op":"replace","path":"/rules/0/verbs","value":["get","list","watch"]}]`)
			},
			Mend: func(s *Scene) error { return s.Apply("drain-guard.yaml") }, Healed: shut,
		},
	}
}

func others() []Row {
	const metrics = "`kubectl calls doctor`, alert `CallguardMetricsNotReady`; autoscalers hold"
	api := without("APIService `v1beta2.custom.metrics.k8s.io`", metrics, "apiservice", "v1beta2.custom.metrics.k8s.io")
	api.Noticed = func(s *Scene) error { return s.Doctor("FAIL metrics-api") }
	taken := Row{
		Object: "APIService `v1beta1.custom.metrics.k8s.io`", What: "changed: another adapter takes it over", Notices: "`kubectl calls doctor`, the adapter's log", Heals: again,
	}
	saved := ""
	taken.Do = func(s *Scene) error {
		var err error
		if saved, err = s.Save(nil, "apiservice", "v1beta1.custom.metrics.k8s.io"); err != nil {
			return err
		}
		return s.Run("patch", "apiservice", "v1beta1.custom.metrics.k8s.io", "--type=merge", "-p", `{"spec":{"service":{"name":"another","namespace":"kube-system"}}}`)
	}
	taken.Noticed = func(s *Scene) error { return s.Doctor("metrics-api") }
	taken.Mend = func(s *Scene) error {
		return errors.Join(s.Run("delete", "apiservice", "v1beta1.custom.metrics.k8s.io"), s.Run("create", "-f", saved))
	}
	taken.Healed = func(s *Scene) error { return s.There("apiservice", "v1beta1.custom.metrics.k8s.io") }
	service := without("Service `metrics-adapter`", metrics, "service", lab.AdapterName, "-n", lab.AdapterNamespace)
	key := Row{
		Object: "Secret of the default LiveKit project", What: "rewritten " + person + " with a wrong key", Notices: "alerts that LiveKit is not read; pods that should go are held as unknown", Heals: "the right key",
		Do: func(s *Scene) error { return rewrite(s, "api-secret", "wrong") },
	}
	key.Mend = func(s *Scene) error { return rewrite(s, "api-secret", s.Lab.LiveKits[0].APISecret) }
	key.Healed = shut
	return []Row{
		without("PriorityClass `callguard-calls`", "whoever creates pods that name it, from the API server; existing pods keep theirs", "priorityclass", "callguard-calls"),
		api, taken, service, key,
		without("Policy `callguard-lookout`", "nobody, while callguard stays installed", policy, "callguard-lookout"),
	}
}

// rewrite changes a file of LiveKit's key the way a mounted Secret changes.
func rewrite(s *Scene, file, text string) error {
	return os.WriteFile(filepath.Join(s.Lab.Cluster.Dir(), file), []byte(text), 0o600)
}

func leases() []Row {
	leads := func(s *Scene) error {
		lease, err := s.Lab.Client.CoordinationV1().Leases(lab.GuardNamespace).Get(s.Context, leader.LeaseName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if h := lease.Spec.HolderIdentity; h == nil || *h == "" || *h == leader.UnlockHolder || strings.HasPrefix(*h, "somebody") {
			return fmt.Errorf("it is held by %v", h)
		}
		if time.Since(lease.Spec.RenewTime.Time) > 5*time.Second {
			return errors.New("it is not renewed")
		}
		return s.DoorsShut()
	}
	const mine = "Lease `drain-guard`"
	hold := func(s *Scene, holder string, seconds int) error {
		return s.Run("patch", "lease", leader.LeaseName, "-n", lab.GuardNamespace, "--type=merge", "-p",
			fmt.Sprintf(`{"spec":{"holderIdentity":%q,"leaseDurationSeconds":%d,"renewTime":%q}}`, holder, seconds, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")))
	}
	return []Row{
		{
			Object: mine, What: "deleted " + person, Notices: "nobody has to", Heals: "drain-guard, within 10 s: one replica leads again",
			Do:     func(s *Scene) error { return s.Run("delete", "lease", leader.LeaseName, "-n", lab.GuardNamespace) },
			Healed: leads,
		},
		{
			Object: mine, What: "restored from a backup with a former holder", Notices: "`kubectl calls doctor`, until it has run out", Heals: "drain-guard, when it has run out: 6 s",
			Do: func(s *Scene) error { return hold(s, "somebody-of-before", 6) }, Healed: leads,
		},
		{
			Object: mine, What: "held by `unlock` (" + person + ")", Notices: "every drain-guard is not ready; alert `CallguardUnlocked`", Heals: "the start of a drain-guard",
			Do: func(s *Scene) error { return hold(s, leader.UnlockHolder, 1<<30) },
			Noticed: func(s *Scene) error {
				if s.Guard.Ready(s.Context) == nil {
					return errors.New("the guard is ready")
				}
				return s.Says("callguard_unlocked", 1)
			},
			Mend: func(s *Scene) error { return hold(s, "", 1) }, Healed: leads,
		},
		{
			Object: "Lease of a node", What: "deleted " + person, Notices: "nobody has to", Heals: "the node's kubelet",
			Do: func(s *Scene) error { return s.Run("delete", "lease", "node-1", "-n", "kube-node-lease") },
			Healed: func(s *Scene) error {
				return errors.Join(s.There("lease", "node-1", "-n", "kube-node-lease"), s.DoorsShut())
			},
		},
	}
}

// workloads are the owners of pods with calls in the quiet namespace. None of them is
// recreated.
func workloads() []Row {
	row := func(object, what string, args ...string) Row {
		var before int
		return Row{
			Object: object, What: what, Notices: "drain-guard: Events on the pods; policy `callguard-delete` refuses the garbage collector", Heals: nothing + ": the pods go after their calls",
			Do: func(s *Scene) error {
				var err error
				if before, err = s.draining(); err != nil {
					return err
				}
				return s.Run(args...)
			},
			Noticed: func(s *Scene) error {
				now, err := s.draining()
				if err == nil && now <= before {
					err = errors.New("no pod more takes no new call")
				}
				return err
			},
			Healed: shut,
		}
	}
	foreign := row("CustomResourceDefinition of a pod's owner", "deleted "+person, "delete", "crd", OwnerKind, "--wait=false")
	foreign.Notices = "drain-guard: Event `OwnerNotFollowed` on the owner, from the first; policy `callguard-delete` refuses the garbage collector"
	foreign.Heals = nothing + ": the pod keeps serving, and leaves when its node is drained or with annotation `callguard.dev/leave`"
	foreign.Noticed = func(s *Scene) error {
		ever := *s
		ever.Began = time.Time{}
		return ever.Event(QuietName, OwnerName, guard.ReasonNotFollowed, call.LeaveAnnotation)
	}
	return []Row{
		foreign,
		row("ReplicaSet of pods with calls", "deleted "+person, "delete", "replicaset", "-n", QuietName, "--all", "--wait=false"),
		row("Deployment of pods with calls", "deleted "+person, "delete", "deployment", "-n", QuietName, "--all", "--wait=false"),
	}
}

// OwnerKind is the CustomResourceDefinition of the object, named OwnerName, that owns pod
// QuietName in the quiet namespace.
const (
	OwnerKind = "fleets.example.com"
	OwnerName = "own"
	QuietName = "accidents-quiet"
)

// draining counts the pods of the quiet namespace that accept no new call.
func (s *Scene) draining() (n int, err error) {
	list, err := s.Lab.Client.CoreV1().Pods(QuietName).List(s.Context, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	for _, pod := range list.Items {
		if pod.Annotations[call.DrainingAnnotation] != "" {
			n++
		}
	}
	return n, nil
}

func processes() []Row {
	restarted := func(s *Scene) error {
		g, err := s.Lab.StartGuard(s.Context, "--settle=3s", "--lost-node-quiet=5s")
		if err != nil {
			return err
		}
		s.Guard = g
		return nil
	}
	gone := func(s *Scene) error { return s.Doctor("FAIL drain-guard") }
	saved := ""
	return []Row{
		{
			Object: "The processes of drain-guard", What: "killed", Notices: "alert `CallguardNotReady`; `kubectl calls doctor`", Heals: "its Deployment",
			Do: func(s *Scene) error { return s.Guard.Kill() }, Noticed: gone, Mend: restarted, Healed: shut,
		},
		{
			Object: "ServiceAccount `drain-guard`", What: "deleted " + person, Notices: "alert `CallguardNotReady`; `kubectl calls doctor`: nobody leads", Heals: again + ", and a restart of the Deployment",
			Do: func(s *Scene) error {
				var err error
				if saved, err = s.Save(nil, "serviceaccount", lab.GuardName, "-n", lab.GuardNamespace); err != nil {
					return err
				}
				return s.Run("delete", "serviceaccount", lab.GuardName, "-n", lab.GuardNamespace)
			},
			Noticed: gone,
			Mend: func(s *Scene) error {
				return errors.Join(s.Run("create", "-f", saved), s.Guard.Kill(), restarted(s))
			},
			Healed: shut,
		},
	}
}

// Table is the table in docs/lock.md.
func Table() string {
	var b strings.Builder
	b.WriteString("\n| object | what happens to it | calls | who notices | what restores it |\n|---|---|---|---|---|\n")
	for _, r := range Rows() {
		calls := "go on"
		switch {
		case r.Refused != "":
			calls = "go on: it is refused"
		case r.Opens != "":
			calls = "go on; until it is restored: " + r.Opens
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.Object, r.What, calls, r.Notices, r.Heals)
	}
	b.WriteString("\n")
	return b.String()
}
