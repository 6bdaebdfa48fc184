// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"sotto/internal/config"
	"sotto/internal/control"
	"sotto/internal/observe"
)

// routes returns the requests that the control socket answers, in addition to reload and
// replace. docs/control.openapi.json describes them.
func (d *daemon) routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /v1/status":           func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.status()) },
		"GET " + control.ReadyPath: d.handleReady,
		"GET /v1/trace":            d.handleTrace,
		"GET /v1/explain":          d.handleExplain,
		"GET /v1/lists":            d.handleLists,
		"POST /v1/lists/update":    d.handleListUpdate,
		"POST /v1/cache/flush":     d.handleFlush,
		"POST /v1/log-level":       d.handleLevel,
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client has disconnected
}

// handleReady answers 200 if queries are answered, and 503 if not yet, or if the process stops.
func (d *daemon) handleReady(w http.ResponseWriter, _ *http.Request) {
	ready, text := d.readyState()
	if !ready {
		http.Error(w, text, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, text)
}

const (
	textStarting = "Sotto is starting: queries are not answered yet"
	textStopping = "Sotto is stopping: queries are answered for a while"
)

// readyState is ready with a text for people.
func (d *daemon) readyState() (ready bool, text string) {
	if d.ready() {
		return true, "ready"
	}
	if d.draining.Load() {
		return false, textStopping
	}
	return false, textStarting
}

// handleTrace streams the queries that match the parameters, one JSON object per line, until
// the client disconnects.
func (d *daemon) handleTrace(w http.ResponseWriter, r *http.Request) {
	f := observe.Filter{
		Workload: r.FormValue("workload"), Name: r.FormValue("name"), Type: r.FormValue("type"),
		Rcode: r.FormValue("rcode"), Source: r.FormValue("source"),
	}
	if text := r.FormValue("min"); text != "" {
		var err error
		if f.Min, err = time.ParseDuration(text); err != nil {
			http.Error(w, fmt.Sprintf("min is %q: want a duration such as 20ms", text), http.StatusBadRequest)
			return
		}
	}
	if err := f.Normalize(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := "" // of the workload
	if f.Workload != "" && f.Workload[0] != '/' {
		name, f.Workload = f.Workload, ""
	}
	t := d.hub.Trace(f)
	defer t.Close()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	enc := json.NewEncoder(w)
	for {
		if len(t.Events()) == 0 && out.Flush() != nil {
			return
		}
		select {
		case e := <-t.Events():
			d.hub.Complete(&e)
			if name != "" && !observe.Selects(name, e.Workload, e.WorkloadName) {
				continue
			}
			e.Lost = t.Lost()
			if enc.Encode(e) != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// handleFlush removes the cached answers of a name and of all names below it, or all, and forgets
// that queries for them failed.
func (d *daemon) handleFlush(w http.ResponseWriter, r *http.Request) {
	if err := d.resolver.FlushFailures(r.FormValue("name")); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if d.resolver.cache == nil {
		http.Error(w, "there is no cache (cache-mib = 0)", http.StatusUnprocessableEntity)
		return
	}
	if d.resolver.shared != nil {
		d.resolver.shared.Flush(time.Now())
	}
	d.resolver.groups.flushDenials()
	n, err := d.resolver.cache.FlushName(r.FormValue("name"))
	d.resolver.repeats.forget(false)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d\n", n)
}

// handleLevel changes the level of the log until the next reload.
func (d *daemon) handleLevel(w http.ResponseWriter, r *http.Request) {
	level, err := config.ParseLevel(r.FormValue("level"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	old := d.level.Level()
	d.level.Set(level)
	d.log.Log(r.Context(), max(level, slog.LevelInfo), "log level changed", "from", old, "to", level)
	fmt.Fprintln(w, old)
}
