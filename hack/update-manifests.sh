#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Renders charts/callguard into manifests/, for kubectl apply and for drain-guard, which compares the cluster's admission
# policies with them. Nothing there is managed by Helm. The go command builds Helm from hack/tools/helm and keeps it in
# its build cache. An argument names another folder to write to.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-manifests}

helm=$(go tool -n -modfile=hack/tools/helm/go.mod helm)

# render FILE WHAT FLAGS...: FILE's header says WHAT it is.
render() {
	local file=$1 what=$2
	shift 2
	{
		printf '# SPDX-License-Identifier: Apache-2.0\n\n'
		printf '# Rendered from charts/callguard by hack/update-manifests.sh. Do not edit.\n'
		printf '# %s\n' "$what"
		"$helm" template callguard charts/callguard --namespace callguard-system --no-hooks \
			--kube-version 1.36.0 "$@" |
			grep -vE '^(# Source: .*)?$|^    app.kubernetes.io/managed-by: Helm$'
	} >"$out/$file"
}

render doors.yaml "The admission policies: they protect every call, also when no process of callguard runs." \
	--show-only 'templates/doors/*.yaml'
render lookout.yaml "Keeps policy callguard-birth working when it is installed again. Leave it in place when you delete doors.yaml." \
	--show-only templates/lookout.yaml
render metrics-adapter.yaml "The namespace, the account, the rights with their bounds, and the APIServices of the metrics-adapter. metrics-adapter-deployment.yaml runs it." \
	--set namespace.create=true \
	--show-only templates/namespace.yaml \
	--show-only templates/metrics-adapter/serviceaccount.yaml \
	--show-only templates/metrics-adapter/rbac.yaml \
	--show-only templates/metrics-adapter/leash.yaml \
	--show-only templates/metrics-adapter/apiservices.yaml
render metrics-adapter-deployment.yaml "Two replicas of the metrics-adapter. Secret livekit, with LiveKit's URL and key, may come later." \
	--show-only templates/metrics-adapter/service.yaml \
	--show-only templates/metrics-adapter/deployment.yaml
render metrics-adapter-rules.yaml "Alerts on the metrics-adapter, for the Prometheus Operator." \
	--set prometheusRule.enabled=true \
	--show-only templates/monitoring/metrics-adapter-rules.yaml
render drain-guard.yaml "The namespace, the account and the rights of drain-guard, and what viewers and operators may do. Apply doors.yaml as well." \
	--set namespace.create=true \
	--show-only templates/namespace.yaml \
	--show-only templates/drain-guard/serviceaccount.yaml \
	--show-only templates/drain-guard/rbac.yaml \
	--show-only templates/viewer.yaml \
	--show-only templates/operator.yaml
render drain-guard-deployment.yaml "Two replicas of drain-guard. Run \"drain-guard unlock\" in one before you delete them for good." \
	--show-only templates/drain-guard/deployment.yaml
render drain-guard-rules.yaml "Alerts, for the Prometheus Operator." \
	--set prometheusRule.enabled=true \
	--show-only templates/monitoring/drain-guard-rules.yaml
render monitors.yaml "What is scraped, for the Prometheus Operator." \
	--set serviceMonitor.enabled=true \
	--show-only templates/monitoring/servicemonitors.yaml
