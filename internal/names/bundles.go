// SPDX-License-Identifier: Apache-2.0

package names

import (
	"errors"
	"io/fs"
	"path/filepath"
)

// Directories with the bundles of running containers: containerd and that of k3s have one
// directory for each of containerd's namespaces, CRI-O (like podman) has a storage driver's.
var (
	taskDirs  = []string{"run/containerd/io.containerd.runtime.v2.task", "run/k3s/containerd/io.containerd.runtime.v2.task"}
	crioStore = "run/containers/storage"
)

// bundleName returns the name of a container that the runtime has put into the annotations of its
// OCI configuration (config.json): NAMESPACE/POD/CONTAINER, NAMESPACE/POD for the container that
// holds a pod's namespaces, or nerdctl's name. These files say what the runtime's CRI socket would,
// without a client for gRPC, which would add 5 MB to the program, and without the rights that
// such a socket gives.
func bundleName(open opener, id string) (string, error) {
	var files []string
	for _, dir := range taskDirs {
		spaces, err := list(open, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, space := range spaces {
			files = append(files, filepath.Join(dir, space, id, "config.json"))
		}
	}
	for _, driver := range podmanDirs {
		files = append(files, filepath.Join(crioStore, driver, id, "userdata/config.json"))
	}
	for _, file := range files {
		var bundle struct{ Annotations map[string]string }
		err := readJSON(open, file, &bundle)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return annotatedName(bundle.Annotations), err
	}
	return "", nil
}

// annotatedName returns the name in the annotations of containerd's CRI plugin, of CRI-O, or of
// nerdctl.
func annotatedName(of map[string]string) string {
	for _, key := range []struct{ namespace, pod, container string }{
		{"io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.container-name"},
		{"io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.container.name"},
	} {
		namespace, pod, container := of[key.namespace], of[key.pod], of[key.container]
		switch {
		case namespace == "" || pod == "":
		case container == "" || container == "POD": // CRI-O's name for that of the pod
			return namespace + "/" + pod
		default:
			return namespace + "/" + pod + "/" + container
		}
	}
	return of["nerdctl/name"]
}
