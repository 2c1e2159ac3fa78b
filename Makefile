# SPDX-License-Identifier: Apache-2.0

# Variables a caller may set: KEEP=1 (demo), NAME=instance (cluster-*), KUBERNETES=version (test), SEED, DURATION, RATE, PACE, NODES, FAULTS, REPLAY, BASELINE, TAIL (soak), ONLY (mutants), FUZZTIME (fuzz), CI (tests print every result).
UNIT := ./cmd/... ./pkg/... ./manifests/... ./hack/... ./test/fleet/... ./test/lab/... ./test/bench/... ./test/monitoring/... ./test/reference/... ./test/python/... ./test/soak ./test/accidents ./test/mutants
# They visit every state of small worlds, in step, and are slow under the race detector.
MODELS := Interleavings|NothingWaitsForEver|NoJobIsTakenForOver|FindsBrokenRules|NodeHours
INSTANCE := $(if $(NAME),--name $(NAME))

.DEFAULT_GOAL := help
# The two halves of `make test` share the machine with real control planes: one after the other, whatever -j says.
.NOTPARALLEL:

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "; print "Usage: make <target>"} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Build

.PHONY: build
build: ## Build the programs into bin
	hack/build.sh bin/ ./cmd/...

.PHONY: image
image: ## Build the image into _output/callguard.tar, without a container engine; prints its digest
	go run ./hack/image

.PHONY: release-dry-run
release-dry-run: ## Make, sign and check a release on loopback, twice, into _output/release (the first run builds cosign, which takes minutes)
	go run ./hack/release --twice

.PHONY: clean
clean: ## Remove build results; programs of the local cluster stay in the user's cache folder
	rm -rf bin _output

##@ Test

.PHONY: unit
unit: ## Test every package by itself, with the race detector (needs gcc, python3 and promtool)
	CGO_ENABLED=1 go test -race -skip '$(MODELS)' $(if $(CI),-v -count=1) $(UNIT)
	go test -run '$(MODELS)' $(if $(CI),-v -count=1) ./pkg/callgate ./pkg/guard ./test/fleet

.PHONY: charts
charts: ## Test what the charts render (a separate module: the first run compiles Helm, about 3 minutes)
	go -C test/charts vet ./...
	go -C test/charts test $(if $(CI),-v -count=1) ./...

.PHONY: e2e
e2e: ## Test on real control planes, a real LiveKit and real agents (the first run builds them, about 15 minutes; needs npm)
	go test -v -count=1 -p 2 -timeout 60m ./test/drain/... ./test/e2e/... ./test/gate/... ./test/helm/... ./test/doors/...

.PHONY: e2e-long
e2e-long: ## Test what takes minutes, within the chart's memory limits: changed LiveKit projects, a tenant for each kind of trouble, hostile tenants (about 15 minutes; needs root)
	go test -v -count=1 -tags long -timeout 40m -run 'Rewritten|OneTenant|HostileTenants' ./test/drain -memory 256

.PHONY: e2e-agents
e2e-agents: ## Test 200 callers during drains, rollouts and gate kills, with simulated Python and Node agents, then with real Node agents on real nodes (about 20 minutes; needs root)
	go test -v -count=1 -tags agents -timeout 20m -run TestPythonAgents ./test/drain -agents-calls 200
	go test -v -count=1 -tags agents -timeout 20m -run TestNodeAgents ./test/drain -agents-calls 200
	go test -v -count=1 -timeout 40m ./test/nodes -run TestInstall -many-calls 200

.PHONY: e2e-fleet
e2e-fleet: ## Test that a node autoscaler removes all unneeded nodes when load falls, from 200 callers on 40 nodes (about 5 minutes)
	go test -v -count=1 -tags agents -timeout 20m -run TestFortyNodesLeave ./test/drain -nodes 40

.PHONY: e2e-estimate
e2e-estimate: ## Test the estimate of a drain's end, with 200 calls of known, mixed lengths (about 5 minutes)
	go test -v -count=1 -tags agents -timeout 20m -run TestEstimate ./test/drain -nodes 2

.PHONY: e2e-accidents
e2e-accidents: ## Delete, replace and change every object of callguard in the middle of a drain: the table of docs/lock.md (about 6 minutes)
	go test -v -count=1 -timeout 20m ./test/accidents/live

.PHONY: e2e-upgrade
e2e-upgrade: ## Test an upgrade from commit 5a0fa9f, of pods with its call-gate and of the guard (needs the Git history, and compiles that commit)
	hack/test-upgrade.sh 5a0fa9f

.PHONY: e2e-clocks
e2e-clocks: ## Test drains, rollouts, scaling and dead nodes with all clocks ten minutes apart, both ways (about 15 minutes)
	hack/test-clocks.sh

.PHONY: e2e-nodes
e2e-nodes: ## Test both charts on real nodes, kubelet and containerd (needs root, npm and Debian's containerd)
	go test -v -count=1 -timeout 30m ./test/nodes/...

.PHONY: e2e-networks
e2e-networks: ## Install both charts and scale on calls with IPv6-only Services, then with cluster domain corp.internal (about 10 minutes; needs what e2e-nodes does)
	go test -v -count=1 -timeout 20m ./test/nodes -run TestInstall -ipv6-services
	go test -v -count=1 -timeout 20m ./test/nodes -run TestInstall -cluster-domain corp.internal

.PHONY: e2e-version
e2e-version: ## Test the admission policies and drains on the control plane of another release, such as KUBERNETES=v1.34.4 (the first run builds it, about 10 minutes)
	CALLGUARD_KUBERNETES=$(KUBERNETES) go test -v -count=1 -p 1 -timeout 60m ./test/doors/... ./test/drain/...

.PHONY: test
test: $(if $(KUBERNETES),e2e-version,unit charts e2e) ## Run unit, charts, then e2e; with KUBERNETES=v1.34.4, e2e-version

.PHONY: model
model: ## Explore more states of the models of gate and guard than `make unit` does, about 15 minutes
	go test -v -count=1 -timeout 30m -run '$(MODELS)' ./pkg/callgate -model 100000
	go test -v -count=1 -timeout 60m -run '$(MODELS)' ./pkg/guard -model 40000

.PHONY: mutants
mutants: ## Break callguard in one place at a time: a named test has to notice each (about 5 minutes; ONLY=gate/ for a part)
	go run ./test/mutants $(if $(ONLY),--only $(ONLY))

.PHONY: mutants-policies
mutants-policies: ## The same for the admission policies, each on a local cluster (about 6 minutes)
	go run ./test/mutants --policies $(if $(ONLY),--only $(ONLY))

.PHONY: fuzz
fuzz: ## Throw random bytes at whatever reads what others send, FUZZTIME=1m for each target (about 20 minutes)
	hack/fuzz.sh $(FUZZTIME)

.PHONY: soak
soak: ## Play DURATION=10m of calls, disruptions and faults, drawn from SEED=1, RATE=1 calls a second, at PACE=1, on NODES=10; or REPLAY=file; FAULTS=no leaves out faults, BASELINE=article and others play it without callguard (report in _output/soak)
	go test -v -count=1 -timeout 0 -tags soak -run TestSoak ./test/soak -out $(CURDIR)/_output/soak $(if $(BASELINE),-baseline $(BASELINE)) $(if $(TAIL),-tail $(TAIL)) \
		$(if $(REPLAY),-replay $(abspath $(REPLAY)),$(if $(SEED),-seed $(SEED)) $(if $(DURATION),-duration $(DURATION)) $(if $(RATE),-rate $(RATE)) $(if $(PACE),-pace $(PACE)) $(if $(NODES),-nodes $(NODES)) $(if $(filter no,$(FAULTS)),-faults=false))

.PHONY: soak-page
soak-page: ## Open a soak's report in a browser, and look at it (needs Debian's chromium)
	go test -v -count=1 -tags page -run TestPageInBrowser ./test/soak

.PHONY: bench
bench: bench-growth ## Measure how costs grow, reads at 5,000 pods, and how the guard empties 50 nodes with 5,000 pods (about 25 minutes; needs root)
	go run ./test/bench
	go run ./test/bench/cordon

.PHONY: bench-growth
bench-growth: ## The part of bench that measures how the cost of reads, lists, plans and rooms grows, into docs/figures (about 5 minutes; needs no cluster)
	go run ./test/bench/growth --write docs/figures

##@ Verify

.PHONY: lint
lint: ## Run the linters (the first run builds them, about 2 minutes)
	hack/verify-lint.sh

.PHONY: vulnerabilities
vulnerabilities: ## Look for known vulnerabilities in the code that the programs call, on each platform (about 8 minutes)
	hack/check-vulnerabilities.sh

.PHONY: generate
generate: ## Bring formatting, go.mod and all generated files up to date: every hack/update-*.sh
	hack/update-all.sh

.PHONY: verify
verify: ## Run every hack/verify-*.sh, then list what failed
	hack/verify-all.sh

##@ Local cluster

.PHONY: demo
demo: ## Watch an HPA follow calls, then three drains during calls, on a local cluster (KEEP=1 leaves it running)
	@hack/demo.sh $(if $(KEEP),--keep)

.PHONY: cluster-up
cluster-up: ## Start a cluster with LiveKit on this machine (NAME=instance)
	go run ./hack/cluster up $(INSTANCE)

.PHONY: cluster-status
cluster-status: ## Show every component of the cluster (NAME=instance)
	go run ./hack/cluster status $(INSTANCE)

.PHONY: cluster-down
cluster-down: ## Stop the cluster and keep its logs (NAME=instance)
	go run ./hack/cluster down $(INSTANCE)
