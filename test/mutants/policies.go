// SPDX-License-Identifier: Apache-2.0

package main

const policies = "manifests/doors.yaml"

// policyMutants break expressions of the admission policies. callguard-delete-too is a copy of
// callguard-delete, so that one may be lost: both are changed.
func policyMutants() []Mutant {
	policy := func(name, old, new, test, harm string) Mutant {
		return Mutant{Name: "policy/" + name, File: policies, Old: old, New: new, Package: "test/doors", Test: test, Harm: harm}
	}
	in := func(times int, m Mutant) Mutant {
		m.Times = times
		return m
	}
	return []Mutant{
		policy("born-released", `"!('callguard.dev/released' in object.metadata.labels)"`, `"true"`, "TestBirth",
			"a pod is born unlocked"),
		policy("born-draining", "['callguard.dev/draining', 'callguard.dev/aside', 'callguard.dev/hash', 'callguard.dev/leave'].exists(", "['callguard.dev/aside', 'callguard.dev/hash', 'callguard.dev/leave'].exists(", "TestBirth",
			"a pod is born draining, and its zero counts at once"),
		policy("endless-grace", "object.spec.?terminationGracePeriodSeconds.orValue(30) <= 86400", "object.spec.?terminationGracePeriodSeconds.orValue(30) <= 8640000", "TestBirth",
			"a pod that hangs keeps its node for months"),
		in(3, policy("any-controller-deletes", "request.userInfo.username == 'system:kube-controller-manager' &&\n      (has(namespaceObject.metadata.deletionTimestamp)", "request.userInfo.username != 'system:anonymous' &&\n      (has(namespaceObject.metadata.deletionTimestamp)", "TestDelete",
			"everybody deletes pods that seem to have failed, while their containers run")),
		in(2, policy("no-grace", "variables.asked >= variables.least", "variables.asked >= 0", "TestDelete",
			"kubectl delete --now cuts the calls of a pod that is ending")),
		in(2, policy("break-glass-is-locked", "(has(namespaceObject.metadata.deletionTimestamp) || oldObject.?status.?phase.orValue('') in ['Failed', 'Succeeded']) ||\n      'callguard:break-glass' in request.userInfo.?groups.orValue([])\n  - name: running", "(has(namespaceObject.metadata.deletionTimestamp) || oldObject.?status.?phase.orValue('') in ['Failed', 'Succeeded'])\n  - name: running", "TestDelete",
			"nobody can end a call that has to end")),
		policy("keep-grace", "request.?options.?gracePeriodSeconds.orValue(variables.own) >= variables.least", "true", "TestKeepGrace",
			"LiveKit's servers are ended with the calls that they carry"),
		policy("guard-deletes-locked", "request.operation != 'DELETE' || request.?dryRun.orValue(false) || 'callguard.dev/released' in variables.was", "true", "TestLeash",
			"whoever has the guard's token deletes locked pods"),
		policy("guard-writes-specs", "object.spec == oldObject.spec && object.metadata.?finalizers == oldObject.metadata.?finalizers &&\n      variables.was.all(", "object.metadata.?finalizers == oldObject.metadata.?finalizers &&\n      variables.was.all(", "TestLeash",
			"whoever has the guard's token changes what runs in a pod"),
		policy("class-for-everybody", "[?'callguard.dev/disable'] == optional.of('true')\n    messageExpression: >-\n      'PriorityClass", "[?'callguard.dev/disable'] != optional.of('other')\n    messageExpression: >-\n      'PriorityClass", "TestPriority",
			"any namespace preempts others with callguard's priority"),
		policy("binding-releases", "!object.metadata.?labels.orValue({}).exists(key, key.startsWith('callguard.dev/')) &&\n      ", "", "TestBinding",
			"a scheduler unlocks pods"),
		policy("budget-status", "object.?status == oldObject.?status && object.metadata.?ownerReferences", "object.metadata.?ownerReferences", "TestBudgetStatus",
			"somebody writes that a pod may be evicted, and it is"),
		policy("budget-owner", "request.operation == 'UPDATE' && object.spec == oldObject.spec &&\n      object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences &&", "request.operation == 'UPDATE' && object.spec == oldObject.spec &&", "TestBudget",
			"a budget is given to an owner that is gone, and collected"),
		policy("guarded-is-taken-off", "variables.is[?'callguard.dev/guarded'] == variables.was[?'callguard.dev/guarded']", `"true"`, "TestTamper",
			"a pod with calls is made one that nobody guards"),
		policy("witnesses-change", "variables.fixed.size() == 0", "variables.fixed.size() <= 1", "TestTamper",
			"somebody changes who counts a pod's calls"),
		policy("unmarked", "variables.guard && !('callguard.dev/draining' in variables.noted)", "variables.guard", "TestTamper",
			"a pod takes calls again while it is being released"),
		policy("foreign-status", "object.?status.?podIP == oldObject.?status.?podIP && object.?status.?podIPs == oldObject.?status.?podIPs", "true", "TestTamper",
			"another pod answers for this one's calls"),
		policy("foreign-phase", "object.?status.?phase.orValue('') == oldObject.?status.?phase.orValue('')", "true", "TestTamper",
			"a pod with calls is said to be pending, and evicted"),
		policy("new-image", "object.spec.containers.map(c, c.?image.orValue('')) == oldObject.spec.containers.map(c, c.?image.orValue('')) &&\n      ", "", "TestTamper",
			"a new image restarts a container in mid-call"),
		policy("active-deadline", "!variables.locked || object.spec.?activeDeadlineSeconds == oldObject.spec.?activeDeadlineSeconds", "true", "TestTamper",
			"the kubelet ends a pod in mid-call"),
	}
}
