// SPDX-License-Identifier: Apache-2.0

package status

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"sotto/internal/observe"
)

var sequences = regexp.MustCompile("\x1b\\[[0-9]*m")

// TestColour: colours change no text and no alignment, and mark failures only.
func TestColour(t *testing.T) {
	now := time.Unix(0, 0)
	s := Status{Ready: true, Groups: []Group{{Name: "default", Servers: []Server{
		{Server: "192.0.2.1:853", State: "up"}, {Server: "192.0.2.2:853", State: "silent", LastError: "why"}, {Server: "192.0.2.3:853", State: "down"},
	}}}, Messages: []observe.Message{{Time: now, Level: "ERROR", Text: "text"}}}
	var plain, coloured strings.Builder
	if s.Text(&plain, now, Style{}) != nil || s.Text(&coloured, now, Style{Colour: true}) != nil {
		t.Fatal("error")
	}
	if got := sequences.ReplaceAllString(coloured.String(), ""); got != plain.String() || strings.Contains(plain.String(), "\x1b") {
		t.Errorf("with colours:\n%s\nwithout:\n%s", got, plain.String())
	}
	for _, want := range []string{green + "ready", green + "up", yellow + "silent", red + "down", red + "ERROR"} {
		if !strings.Contains(coloured.String(), want+reset) {
			t.Errorf("no %q:\n%q", want, coloured.String())
		}
	}
	for rcode, want := range map[string]string{
		"NOERROR": "→ NOERROR " + dim + "cache" + reset, "NXDOMAIN": "→ NXDOMAIN " + dim, "SERVFAIL": "→ " + red + "SERVFAIL" + reset, "REFUSED": "→ " + red + "REFUSED",
	} {
		var line strings.Builder
		TraceLine(&line, &observe.Record{Rcode: rcode, Source: "cache"}, time.UTC, Style{Colour: true})
		if !strings.Contains(line.String(), want) {
			t.Errorf("%s: %q", rcode, line.String())
		}
	}
}
