// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"sotto/internal/observe"
)

// TestRoutesAreDocumented compares the requests of the control socket with their description.
func TestRoutesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/control.openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]any
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, methods := range doc.Paths {
		for method := range methods {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(documented)
	routes := append(slices.Collect(maps.Keys((&daemon{}).routes())), "POST /reload")
	slices.Sort(routes)
	if !slices.Equal(routes, documented) {
		t.Errorf("requests %q, documented %q", routes, documented)
	}
}

// TestTraceParameters: a parameter that selects no query is refused.
func TestTraceParameters(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the client disconnects at once
	for query, want := range map[string]int{
		"":                           http.StatusOK,
		"type=aaaa&rcode=none":       http.StatusOK,
		"name=example&source=kernel": http.StatusOK,
		"name=a..example":            http.StatusBadRequest,
		"type=AAAAA":                 http.StatusBadRequest,
		"rcode=SERVFAL":              http.StatusBadRequest,
		"source=upstreams":           http.StatusBadRequest,
		"min=1":                      http.StatusBadRequest,
	} {
		d, w := &daemon{hub: &observe.Hub{}}, httptest.NewRecorder()
		d.handleTrace(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/trace?"+query, nil))
		if w.Code != want {
			t.Errorf("%q: %d %s: want %d", query, w.Code, w.Body, want)
		}
		if d.hub.Tracing() {
			t.Errorf("%q: the trace continues", query)
		}
	}
}
