// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// copies are files that exist twice, by copy. They are not symbolic links, which not every checkout and archive preserves: the chart
// would then contain the path instead of the configuration.
var copies = map[string]string{
	"deploy/helm/sotto/files/node.toml":      "deploy/kubernetes/base/sotto.toml",
	"deploy/helm/sotto/files/forwarder.toml": "deploy/kubernetes/forwarder/sotto.toml",
}

func TestCopies(t *testing.T) {
	for to, from := range copies {
		original, err := os.ReadFile(filepath.Join(root(t), from))
		if err != nil {
			t.Fatal(err)
		}
		found, err := os.Lstat(filepath.Join(root(t), to))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(root(t), to))
		if err != nil || !found.Mode().IsRegular() || !bytes.Equal(got, original) {
			t.Errorf("%s is not a copy of %s: run cp %[2]s %[1]s (%[3]v)", to, from, err)
		}
	}
}
