// SPDX-License-Identifier: Apache-2.0

package names

import (
	"io"
	"strings"
)

// PodNames returns the names (NAMESPACE/NAME) of the pods of this node by their UID, from the
// directory in which the kubelet creates one for the logs of each pod, before it starts the pod.
// root is the directory in front of the path. Without a kubelet the error is [io/fs.ErrNotExist].
func PodNames(root string) (map[string]string, error) {
	f, err := system(root)(podLogs)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pods := make(map[string]string)
	for {
		entries, err := f.Readdirnames(256)
		for _, name := range entries {
			// Neither namespaces nor names of pods contain an underscore.
			if f := strings.Split(name, "_"); len(f) == 3 && f[0] != "" && f[1] != "" {
				pods[f[2]] = f[0] + "/" + f[1]
			}
		}
		if err == io.EOF {
			return pods, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
