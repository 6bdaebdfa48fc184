// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strings"
	"testing"
)

// DocumentedConfig returns the first configuration in a section of a Markdown document, with
// pairs of texts replaced, such as the path of a file by that in the test. Every text must
// occur.
func DocumentedConfig(t testing.TB, file, section string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	rest, _, _ = strings.Cut(rest, "\n## ")
	_, rest, has := strings.Cut(rest, "\n```toml\n")
	config, _, closed := strings.Cut(rest, "```")
	if !found || !has || !closed {
		t.Fatalf("%s: no configuration in a section %q", file, section)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(config, replace[i]) {
			t.Errorf("%s: the configuration of %q does not contain %q", file, section, replace[i])
		}
	}
	return strings.NewReplacer(replace...).Replace(config)
}
