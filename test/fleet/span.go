// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// span is a time between two bounds.
type span struct{ least, most time.Duration }

// parseSpan parses an annotation in seconds: "8", or "0-40" for a random time between.
func parseSpan(annotation, value string) (span, error) {
	low, high, ranged := strings.Cut(value, "-")
	if !ranged {
		high = low
	}
	least, err := strconv.ParseFloat(low, 64)
	most, err2 := strconv.ParseFloat(high, 64)
	if err != nil || err2 != nil || least < 0 || most < least {
		return span{}, fmt.Errorf(`annotation %s is %q; use seconds such as "8", or "0-40" for a random time between`, annotation, value)
	}
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	return span{seconds(least), seconds(most)}, nil
}

// dice is a source of random numbers for concurrent use.
type dice struct {
	mu  sync.Mutex
	rng *rand.Rand
}

// newDice gives each pod its own numbers, the same for the same seed and UID.
func newDice(seed uint64, pod types.UID) *dice {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(pod)) // never fails
	return &dice{rng: rand.New(rand.NewPCG(seed, sum.Sum64()))}
}

func (d *dice) draw(s span) time.Duration {
	if s.most <= s.least {
		return s.least
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return s.least + time.Duration(d.rng.Int64N(int64(s.most-s.least)+1))
}

func (d *dice) happens(chance float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.Float64() < chance
}
