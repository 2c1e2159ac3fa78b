// SPDX-License-Identifier: Apache-2.0

package fair

import "testing"

func TestWorkers(t *testing.T) {
	w := NewWorkers(8)
	takes := func(namespace string) (n int) {
		for w.Take(namespace) {
			n++
		}
		return n
	}
	if n := takes("silent"); n != 4 {
		t.Errorf("a namespace alone has %d of 8 workers; want half", n)
	}
	if n := takes("silent-too"); n != 2 {
		t.Errorf("the next has %d of the 4 that are left; want half of these", n)
	}
	if n := takes("honest"); n != 1 {
		t.Errorf("a third has %d of the 2 that are left; want one", n)
	}
	if n := takes("late"); n != 1 {
		t.Errorf("a fourth has %d of the one that is left; want it", n)
	}
	w.Give("silent")
	if w.Take("silent") {
		t.Error("a namespace with three of eight workers got the last free one")
	}
	if !w.Take("another") {
		t.Error("another namespace did not get it")
	}
	for _, namespace := range []string{"silent", "silent", "silent", "silent-too", "silent-too", "honest", "late", "another"} {
		w.Give(namespace)
	}
	if w.sum != 0 || len(w.busy) != 0 {
		t.Errorf("all were given back, and %d of %v are busy", w.sum, w.busy)
	}
}

// TestOne: a single worker is given to the first who asks, and returned.
func TestOne(t *testing.T) {
	w := NewWorkers(1)
	if !w.Take("a") {
		t.Fatal("the only worker was not given")
	}
	if w.Take("a") {
		t.Error("it was given twice")
	}
	w.Give("a")
	if !w.Take("b") {
		t.Error("it was not given again")
	}
}
