#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that nothing of one machine is committed: folders of a person or a workplace, and settings of its package
# registries. Checks also that pages, values and alerts, which strangers read, use no word that only the authors of the
# code know, and no archaic one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folders='(^|[^A-Za-z0-9_.*}-])/(root|home|Users|work|workspace)/'
settings='(GOPROXY|GONOSUMDB|GONOSUMCHECK|GOINSECURE|GOSUMDB|PIP_INDEX_URL|npm_config_registry|artifactory)[^|)]'

wrong=0
# complain CURE GREP-ARGUMENTS...: prints the lines that grep finds, and how to correct them.
complain() {
	local cure=$1 status=0 found
	shift
	found=$(git -c safe.directory="$PWD" grep --untracked -nIE "$@") || status=$?
	case "$status" in
	0)
		printf '%s\n%s\n' "$found" "$cure" >&2
		wrong=1
		;;
	1) ;;
	*) exit "$status" ;;
	esac
}

complain "These lines name a folder or a registry of one machine: use a path relative to the repository, a temporary folder, or the user's cache folder" \
	-e "$folders" -e "$settings" -- ':!*go.sum'

prose=(README.md SECURITY.md CONTRIBUTING.md ARCHITECTURE.md docs 'charts/*/README.md' 'charts/*/values.yaml' 'charts/*/templates/NOTES.txt'
	'manifests/*-rules.yaml' 'charts/*/dashboards/*.json')
# Paths, file names, the rule and the check of that name may stay; ARCHITECTURE.md says what the code calls doors.
complain "These lines call an admission policy a door, as only the code does: name the policy" \
	-e '(^|[^/`[:alnum:]])[Dd]oors?\b[^.`]' --and --not -e '^FAIL +doors' -- "${prose[@]}" ':!ARCHITECTURE.md'
complain "These lines have a word that a reader would stumble on: write forever, again, despite the policies, attacker, or say it in another way" \
	-e '\bfor ever\b|\banew\b|past the doors|\bthief\b|none of callguard.s business|\bis content without\b|[^a-z]nobody takes\b' -- "${prose[@]}"
exit "$wrong"
