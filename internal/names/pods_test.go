// SPDX-License-Identifier: Apache-2.0

package names

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestPodNames(t *testing.T) {
	root := t.TempDir()
	if got, err := PodNames(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, %v without a kubelet", got, err)
	}
	for _, dir := range []string{"shop_web-0_" + testPod, "kube-system_etcd-node_0123456789abcdef0123456789abcdef", "x_y", "_y_z", "a_b_c_d"} {
		if err := os.MkdirAll(filepath.Join(root, podLogs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{testPod: "shop/web-0", "0123456789abcdef0123456789abcdef": "kube-system/etcd-node"}
	if got, err := PodNames(root); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if err := os.RemoveAll(filepath.Join(root, podLogs)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, podLogs), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := PodNames(root); err == nil {
		t.Errorf("%v from a file", got)
	}
}
