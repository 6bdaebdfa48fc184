// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"bytes"
	"os/signal"
	"strings"
	"testing"
)

// TestChild checks the pipes with other programs as the child.
func TestChild(t *testing.T) {
	for _, c := range []struct {
		script string
		want   int  // reports
		fails  bool // Run
	}{
		{`read line; echo '{"Note":"a"}'; echo '{"Note":"b"}'`, 2, false},
		{`read line; echo '{"Note":"a"}'; exit 3`, 1, true},
		{`read line; echo '{"Note":'`, 0, false},
		{`read line; echo nonsense`, 0, true},
		{`read line; yes | head -100000 >&2; exit 1`, 0, true},
	} {
		child, err := Start([]string{"sh", "-c", c.script})
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		if err := child.Run(testConfig, func(Report) { got++ }); (err != nil) != c.fails || got != c.want {
			t.Errorf("%s: %d reports, %v", c.script, got, err)
		}
		child.Stop()
	}
}

// TestStop stops a child that waits, one that tests, and none.
func TestStop(t *testing.T) {
	waiting, err := Start([]string{"cat"})
	if err != nil {
		t.Fatal(err)
	}
	waiting.Stop()
	testing, err := Start([]string{"sh", "-c", `read line; echo '{}'; cat`}) // until stdin is closed
	if err != nil {
		t.Fatal(err)
	}
	if err := testing.Run(testConfig, func(Report) { go testing.Stop() }); err != nil {
		t.Error(err)
	}
	testing.Stop()
	var none *Child
	none.Stop()
}

// TestMainStops checks that the child exits if its parent exits before it asks for a test.
func TestMainStops(t *testing.T) {
	t.Cleanup(func() { signal.Reset() })
	var out bytes.Buffer
	if err := Main(t.Context(), strings.NewReader(""), &out); err != nil || out.Len() > 0 {
		t.Errorf("%v, %s", err, out.String())
	}
	if err := Main(t.Context(), strings.NewReader("{\n"), &out); err == nil {
		t.Error("an incomplete configuration is accepted")
	}
}
