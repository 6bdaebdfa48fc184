// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"encoding/json"
	"sync"
)

// maxExtras limits the workloads whose field is kept.
const maxExtras = 2048

// extras keeps the encoded field extra of each workload, so that a message does not cost an
// encoding.
type extras struct {
	name func(workload string) string // see Config.WorkloadName; may be nil

	mu   sync.RWMutex
	list map[string]extra // by cgroup path
}

type extra struct {
	name string // that text has
	text []byte
}

// of returns the field of a workload: a JSON object with the keys of `sotto trace --json`. It is
// nil if the workload is not known. The name of a workload is missing until it has been found.
func (x *extras) of(workload string) []byte {
	if workload == "" {
		return nil
	}
	name := ""
	if x.name != nil {
		name = x.name(workload)
	}
	x.mu.RLock()
	e, ok := x.list[workload]
	x.mu.RUnlock()
	if ok && e.name == name {
		return e.text
	}
	text, err := json.Marshal(struct {
		Workload string `json:"workload"`
		Name     string `json:"workload_name,omitempty"`
	}{workload, name})
	if err != nil { // does not happen with strings
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.list == nil || len(x.list) >= maxExtras {
		x.list = make(map[string]extra)
	}
	x.list[workload] = extra{name, text}
	return text
}
