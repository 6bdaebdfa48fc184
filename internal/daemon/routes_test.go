// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
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
