// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
)

// point is a measurement at a size.
type point struct{ size, value float64 }

// exponent returns the exponent of the power of the size that fits the points best, by
// least squares of their logarithms: 1 is linear growth, 0 is none.
func exponent(points []point) (float64, error) {
	var n, x, y, xx, xy float64
	for _, p := range points {
		if p.size <= 0 || p.value <= 0 {
			return 0, fmt.Errorf("%g at size %g has no logarithm; measure for longer", p.value, p.size)
		}
		a, b := math.Log(p.size), math.Log(p.value)
		n, x, y, xx, xy = n+1, x+a, y+b, xx+a*a, xy+a*b
	}
	spread := n*xx - x*x
	if n < 2 || spread < 1e-9 {
		return 0, errors.New("growth needs two sizes at least")
	}
	return math.Round(1e6*(n*xy-x*y)/spread)/1e6 + 0, nil // and no -0
}

// row is a measured series.
type row struct {
	series

	folder   string
	points   []point
	exponent float64
}

// comparison is a measured ratio.
type comparison struct {
	ratio

	folder string
	is     float64
}

func fitted(measured results) (rows []row, err error) {
	for _, suite := range suites() {
		for _, s := range suite.series {
			r := row{series: s, folder: suite.folder}
			if r.points, err = measured.points(s); err != nil {
				return nil, err
			}
			if r.exponent, err = exponent(r.points); err != nil {
				return nil, fmt.Errorf("benchmark %s: %w", s.benchmark, err)
			}
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func compare(measured results) (list []comparison, err error) {
	for _, suite := range suites() {
		for _, r := range suite.ratios {
			value, of := measured[r.benchmark][processor], measured[r.of][processor]
			if value <= 0 || of <= 0 {
				return nil, fmt.Errorf("benchmarks %s and %s took %g and %g ns; nothing can be said of them", r.benchmark, r.of, value, of)
			}
			list = append(list, comparison{r, suite.folder, value / of})
		}
	}
	return list, nil
}

func (r row) first() point { return r.points[0] }
func (r row) last() point  { return r.points[len(r.points)-1] }

// judge returns every limit that does not hold.
func judge(rows []row, compared []comparison) error {
	var errs []error
	for _, r := range rows {
		if r.steepest > 0 && r.exponent > r.steepest {
			errs = append(errs, fmt.Errorf("%s grows with exponent %.2f; it shall be %g at most", r.what, r.exponent, r.steepest))
		}
		if last := r.last(); r.most > 0 && last.value > r.most {
			errs = append(errs, fmt.Errorf("%s takes %s with %s %s; it shall be %s at most", r.what, shown(r.unit, last.value), count(last.size), r.of, shown(r.unit, r.most)))
		}
	}
	for _, c := range compared {
		if c.is > c.most {
			errs = append(errs, fmt.Errorf("%s: %.2f; it shall be %g at most", c.what, c.is, c.most))
		}
	}
	return errors.Join(errs...)
}
