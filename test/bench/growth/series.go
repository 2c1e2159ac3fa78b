// SPDX-License-Identifier: Apache-2.0

package main

// Units of benchmark results.
const (
	processor = "cpu-ns/op" // of trial.CPU
	cores     = "cores"
	mebibytes = "MiB"
)

// suite is the benchmarks of a package that are run together.
type suite struct {
	folder string
	time   string // of each, as -benchtime
	count  int    // runs of each; the smallest result counts, because it was disturbed least
	series []series
	ratios []ratio
}

// series is a benchmark over growing sizes.
type series struct {
	name      string // in the picture
	what      string // one operation
	of        string // what there is more and more of
	benchmark string
	unit      string
	steepest  float64 // upper limit of the exponent; 0 for none
	most      float64 // upper limit of the last value, in its unit; 0 for none
}

// ratio compares the results of two benchmarks.
type ratio struct {
	what, benchmark, of string
	most                float64
}

// suites are all measurements, with their limits.
func suites() []suite {
	const linear, level = 1.1, 0.1
	return []suite{
		{
			folder: "./pkg/metricsapi", time: "300ms", count: 5,
			series: []series{
				{name: "an autoscaler's read", what: "an autoscaler's read of a Deployment of five pods", of: "pods in its namespace", benchmark: "Read", unit: processor, steepest: level},
				{name: "the read, with all handlers", what: "the same with all handlers of an API server", of: "pods in its namespace", benchmark: "ServedRead", unit: processor, steepest: level, most: 100_000},
				{name: "a round of autoscalers", what: "autoscalers that read every 15 s, with all handlers", of: "autoscalers", benchmark: "Autoscalers", unit: cores, steepest: linear, most: 0.5},
				{name: "a list of all pods", what: "a list of all pods as JSON, with all handlers", of: "pods", benchmark: "ServedList", unit: processor, steepest: linear},
			},
			ratios: []ratio{
				{what: "a list of 5,000 pods as JSON, with all handlers, of what the library takes to encode it", benchmark: "ServedList/5000", of: "Answer/EncodeJSON", most: 1.5},
				{what: "to find and encode it as protobuf, of the same", benchmark: "Answer/Protobuf", of: "Answer/EncodeJSON", most: 1.5},
			},
		},
		{
			folder: "./pkg/guard", time: "300ms", count: 3,
			series: []series{
				{name: "a plan of one Deployment", what: "a plan of a Deployment whose pods all have to go, of 20,000 in all", of: "pods of it", benchmark: "Plan", unit: processor, steepest: linear},
				{name: "a look at every Deployment", what: "a look at every Deployment of ten pods that have to go", of: "Deployments", benchmark: "Looks", unit: processor, steepest: linear},
			},
		},
		{
			folder: "./pkg/witness/rooms", time: "1x", count: 1,
			series: []series{
				{name: "LiveKit's rooms read first", what: "a reader of LiveKit knows all rooms, with LiveKit's part", of: "rooms", benchmark: "ManyRooms", unit: processor},
				{name: "memory of the rooms", what: "what it keeps of them", of: "rooms", benchmark: "ManyRooms", unit: mebibytes},
			},
		},
	}
}
