// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"slices"
	"time"

	"sotto/internal/observe"
)

const (
	// maxNames limits the rows of names. Those with the lowest rates are added up in a row
	// [observe.Other] of their workload.
	maxNames = 10_000

	// maxOthers limits the rows [observe.Other] of names.
	maxOthers = 1000
)

// table holds rows by their key.
type table struct {
	rows map[key]*row
	// weight is the sum of the weights of all samples, below 1 in the first seconds. Averages are
	// divided by it.
	weight float64
}

// advance adds a sample to all rows, and creates rows for new keys.
func (t *table) advance(deltas map[key]counts, dt time.Duration) {
	if t.rows == nil {
		t.rows = map[key]*row{}
	}
	keep := keepAfter(dt)
	t.weight = t.weight*keep + 1 - keep
	for k := range deltas {
		if t.rows[k] == nil {
			t.rows[k] = &row{key: k}
		}
	}
	for k, r := range t.rows {
		d := deltas[k]
		r.total = r.total.plus(d)
		r.step(d, dt, keep)
	}
}

// limit removes names that had no query in the time that a plot shows, and adds up those with the
// lowest rates if there are more than limit.
func (t *table) limit(limit int) {
	var list []*row
	others := 0
	for k, r := range t.rows {
		switch {
		case r.quiet >= history:
			delete(t.rows, k)
		case k.name == observe.Other:
			others++
		default:
			list = append(list, r)
		}
	}
	if len(list) <= limit {
		return
	}
	slices.SortFunc(list, func(a, b *row) int {
		return cmp.Or(cmp.Compare(b.rate, a.rate), cmp.Compare(a.name, b.name))
	})
	for _, r := range list[limit:] {
		delete(t.rows, r.key)
		k := key{r.group, observe.Other}
		if t.rows[k] == nil {
			if others >= maxOthers {
				k.group = observe.Other
			}
			others++
		}
		if t.rows[k] == nil {
			t.rows[k] = &row{key: k, quiet: history}
		}
		t.rows[k].add(r)
	}
}

// retain removes the rows that are not in present.
func (t *table) retain(present map[key]counts) {
	for k := range t.rows {
		if _, ok := present[k]; !ok {
			delete(t.rows, k)
		}
	}
}

// distinct returns the number of names without regard to their group.
func (t *table) distinct() int {
	names := make(map[string]struct{}, len(t.rows))
	for k := range t.rows {
		names[k.name] = struct{}{}
	}
	return len(names)
}

// list returns copies of the rows for which selected is true, with averages divided by the
// weight.
func (t *table) list(selected func(*row) bool) []*row {
	var out []*row
	for _, r := range t.rows {
		if selected(r) {
			out = append(out, r.scaled(t.weight))
		}
	}
	return out
}

func (r *row) scaled(weight float64) *row {
	c := *r
	if weight > 0 {
		c.rate, c.failed, c.cached, c.seconds = c.rate/weight, c.failed/weight, c.cached/weight, c.seconds/weight
	}
	return &c
}

func (t *table) clone() table {
	c := table{rows: make(map[key]*row, len(t.rows)), weight: t.weight}
	for k, r := range t.rows {
		c.rows[k] = r.scaled(1)
	}
	return c
}

// merged adds up rows with the same name.
func merged(rows []*row) []*row {
	byName := map[string]*row{}
	var out []*row
	for _, r := range rows {
		if sum := byName[r.name]; sum != nil {
			sum.add(r)
			continue
		}
		r.group = ""
		byName[r.name] = r
		out = append(out, r)
	}
	return out
}
