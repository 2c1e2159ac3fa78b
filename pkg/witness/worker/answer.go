// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// maxJobs is more than any worker runs; a larger number is a mistake.
const maxJobs = 1_000_000

// parse reads the number of active jobs from a 200 answer of GET /worker.
//
// LiveKit Agents for Python leaves zero fields out and writes numbers as floats; for Node
// it writes every field, as integers. So a missing active_jobs is zero, but only in an
// answer that names its sdk_version: anything else is not from an agent.
func parse(body []byte) (int, error) {
	var answer struct {
		ActiveJobs *float64 `json:"active_jobs"`
		SDKVersion string   `json:"sdk_version"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, errors.New("the answer is not an agent's") // the library's error repeats the content
	}
	switch {
	case answer.SDKVersion == "":
		return 0, errors.New("the answer names no sdk_version, so it is not an agent's")
	case answer.ActiveJobs == nil:
		return 0, nil
	}
	jobs := *answer.ActiveJobs
	if jobs < 0 || jobs > maxJobs || jobs != math.Trunc(jobs) {
		return 0, fmt.Errorf("active_jobs is %v, which is no number of jobs", jobs)
	}
	return int(jobs), nil
}
