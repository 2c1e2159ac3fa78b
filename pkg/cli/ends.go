// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
)

const (
	// untilIdle is the metric with the estimate of when calls end.
	untilIdle = "seconds_until_idle"
	// endsPace is how often a drain reads it.
	endsPace = 30 * time.Second
	// Two estimates that differ by less count as equal.
	sameTime = time.Minute
)

// The quantiles that are estimated.
const (
	half     = 0.5
	mostly   = 0.9
	notInIt  = "Calls that begin before the pods stop taking any, and the time that replacements take, are not in it."
	asBefore = "by how long calls lasted before"

	// notKnownIs is the text between a metric and the reason why it is not known.
	notKnownIs = " is not known: "
)

// Ends is when the present calls will have ended, as plan -o json shows it.
type Ends struct {
	// MedianSeconds is in how many seconds they will have ended with a probability of a half,
	// and P90Seconds with nine tenths. Both are null if that is not known, and Unknown is why.
	MedianSeconds *int64 `json:"medianSeconds"`
	P90Seconds    *int64 `json:"p90Seconds"`
	Unknown       string `json:"unknown,omitempty"`
}

// ends estimates when the calls of nodes will have ended. With several nodes, each is asked
// for a higher quantile, so that the latest answer has the wanted probability for all
// together.
func (c *cluster) ends(ctx context.Context, nodes []string) Ends {
	all := func(chance float64) (*int64, error) {
		latest := int64(0)
		for _, node := range nodes {
			seconds, err := c.untilIdle(ctx, "nodes/"+url.PathEscape(node), math.Pow(chance, 1/float64(len(nodes))))
			if err != nil {
				return nil, err
			}
			latest = max(latest, seconds)
		}
		return &latest, nil
	}
	median, err := all(half)
	if err != nil {
		return Ends{Unknown: line(err)}
	}
	p90, err := all(mostly)
	if err != nil {
		return Ends{Unknown: line(err)}
	}
	return Ends{MedianSeconds: median, P90Seconds: p90}
}

// untilIdle asks the metrics API in how many seconds a resource will hold no call, for a
// quantile.
func (c *cluster) untilIdle(ctx context.Context, resource string, chance float64) (int64, error) {
	path := fmt.Sprintf("/apis/%s/%s/%s?metricLabelSelector=%s", v1beta2.SchemeGroupVersion, resource, untilIdle, url.QueryEscape(fmt.Sprintf("quantile=%.4g", chance)))
	var list v1beta2.MetricValueList
	switch err := c.get(ctx, path, &list); {
	case apierrors.IsNotFound(err):
		return 0, fmt.Errorf("the metrics API does not foretell it: %w; metrics-adapter may be older than this plugin", err)
	case apierrors.IsServiceUnavailable(err) && strings.Contains(err.Error(), untilIdle+notKnownIs):
		_, why, _ := strings.Cut(err.Error(), untilIdle+notKnownIs)
		return 0, errors.New(why)
	case err != nil:
		return 0, explainMetrics(err)
	case len(list.Items) != 1:
		return 0, errors.New("the metrics API has no one answer")
	}
	return list.Items[0].Value.Value(), nil
}

// sentence returns when the calls will have ended, and what that does not include.
func (e Ends) sentence(now time.Time) string {
	if e.MedianSeconds == nil {
		return "When the calls are over is not known: " + e.Unknown
	}
	return fmt.Sprintf("%s, %s. %s", e.short(now), asBefore, notInIt)
}

// short returns when the calls will have ended.
func (e Ends) short(now time.Time) string {
	at := func(seconds int64) string {
		after := time.Duration(seconds) * time.Second
		return fmt.Sprintf("%s (in %s)", clock(now.Add(after)), duration.HumanDuration(after))
	}
	return fmt.Sprintf("The calls held now are over by %s in half of such cases, by %s in nine of ten", at(*e.MedianSeconds), at(*e.P90Seconds))
}

// later returns the same after some time has passed.
func (e Ends) later(by time.Duration) Ends {
	less := func(seconds int64) *int64 {
		left := max(0, seconds-int64(by/time.Second))
		return &left
	}
	return Ends{MedianSeconds: less(*e.MedianSeconds), P90Seconds: less(*e.P90Seconds)}
}

// by returns the time by which calls will have ended with a probability of a half.
func (e Ends) by(now time.Time) time.Time {
	return now.Add(time.Duration(*e.MedianSeconds) * time.Second)
}

// watchEnds reports when the calls of nodes will have ended: at first, and whenever that
// has changed by more than a tenth of the remaining time.
func (w *progress) watchEnds(ctx context.Context, nodes []string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var told time.Time
	unknown := ""
	for {
		is, now := w.cluster.ends(ctx, nodes), w.cluster.now()
		switch {
		case ctx.Err() != nil:
			return
		case is.MedianSeconds == nil:
			if unknown != is.Unknown {
				unknown = is.Unknown
				w.tell(Event{Event: foretold, Text: is.sentence(now), CallsOver: &is})
			}
		case *is.MedianSeconds > 0 && is.by(now).Sub(told).Abs() > max(sameTime, is.by(now).Sub(now)/10):
			told, unknown = is.by(now), ""
			w.tell(Event{Event: foretold, Text: is.sentence(now), CallsOver: &is})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
