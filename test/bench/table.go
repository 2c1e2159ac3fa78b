// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// percentile returns the smallest duration that is not exceeded by this percentage of
// durations.
func percentile(all []time.Duration, hundredths int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[max(0, (len(sorted)*hundredths+99)/100-1)]
}

func (r result) p50() time.Duration { return percentile(r.took, 50) }
func (r result) p99() time.Duration { return percentile(r.took, 99) }

func find(results []result, name, encoding string) (result, bool) {
	i := slices.IndexFunc(results, func(r result) bool { return r.name == name && r.encoding() == encoding })
	if i < 0 {
		return result{}, false
	}
	return results[i], true
}

// table compares the requests with the two native lists that a client could use
// instead.
func table(results []result) string {
	whole, _ := find(results, nativeJSON, "JSON")
	metadata, _ := find(results, nativeMetadata, "protobuf")
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "ANSWER\tAS\tBYTES\tP50\tP99\tOF PODS\tOF METADATA\t")
	for _, r := range results {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t\n", r.name, r.encoding(), r.bytes, ms(r.p50()), ms(r.p99()), share(r, whole), share(r, metadata))
	}
	_ = w.Flush() // a Builder takes everything
	return b.String()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func share(r, of result) string {
	if of.p50() == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", float64(r.p50())/float64(of.p50()))
}

// judge reports whether the metrics are as much cheaper than the pods as promised.
func judge(results []result) error {
	metrics, haveMetrics := find(results, metricsJSON, "JSON")
	var errs []error
	for _, of := range []struct {
		name, encoding string
		most           float64
	}{{nativeJSON, "JSON", shareOfNative}, {nativeMetadata, "protobuf", shareOfMetadata}} {
		native, haveNative := find(results, of.name, of.encoding)
		if !haveNative || !haveMetrics || native.p50() == 0 {
			return errors.New("nothing was measured; use --rounds 30")
		}
		if is := float64(metrics.p50()) / float64(native.p50()); is > of.most {
			errs = append(errs, fmt.Errorf("a list of the metrics takes %.3f of a list of %s, more than %.3f; run with --profiles DIR to see where", is, of.name, of.most))
		}
	}
	return errors.Join(errs...)
}
