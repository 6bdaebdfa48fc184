// SPDX-License-Identifier: Apache-2.0

// Package bounded has a map with a fixed maximum of entries, which drops what was not used for
// long. It keeps two generations: an entry that is found in the older one moves to the younger
// one, and when that is full, the older one is dropped as a whole.
package bounded

import "sync"

// Map is a bounded map. It is safe for concurrent use.
type Map[K comparable, V any] struct {
	mu          sync.Mutex
	size        int
	young, aged map[K]V
}

// New returns a map of at most twice size entries.
func New[K comparable, V any](size int) *Map[K, V] { return &Map[K, V]{size: size} }

// Get returns the value of a key.
func (m *Map[K, V]) Get(k K) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok = m.young[k]; ok {
		return v, true
	}
	if v, ok = m.aged[k]; ok {
		m.insert(k, v)
	}
	return v, ok
}

// Put sets the value of a key.
func (m *Map[K, V]) Put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.insert(k, v)
}

// Delete removes a key.
func (m *Map[K, V]) Delete(k K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.young, k)
	delete(m.aged, k)
}

// Clear removes all entries.
func (m *Map[K, V]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.young, m.aged = nil, nil
}

// Len returns the number of entries, of which those in both generations count twice.
func (m *Map[K, V]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.young) + len(m.aged)
}

func (m *Map[K, V]) insert(k K, v V) {
	if m.young == nil || len(m.young) >= m.size {
		m.young, m.aged = make(map[K]V), m.young
	}
	m.young[k] = v
}
