// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Files of the runtimes, relative to the root.
const (
	dockerState   = "var/lib/docker/containers"
	dockerSocket  = "run/docker.sock"
	rootlessState = ".local/share/docker/containers" // in the home directory

	podLogs       = "var/log/pods"       // NAMESPACE_POD_UID, created by the kubelet
	containerLogs = "var/log/containers" // POD_NAMESPACE_CONTAINER-ID.log, links by the kubelet
)

// dockerName returns the name of a Docker container from its state, or from the daemon if that
// is elsewhere. The daemon of a user (rootless Docker) is not asked: a process that has dropped
// CAP_DAC_OVERRIDE cannot connect to its socket.
func dockerName(ctx context.Context, root string, c Cgroup) (string, error) {
	var state struct{ Name string }
	if c.User != "" {
		dir, err := openHome(root, c.User)
		if err != nil {
			return "", err
		}
		defer dir.Close()
		err = readJSON(within(dir), filepath.Join(rootlessState, c.ID, "config.v2.json"), &state)
		return strings.TrimPrefix(state.Name, "/"), err
	}
	err := readJSON(system(root), filepath.Join(dockerState, c.ID, "config.v2.json"), &state)
	if errors.Is(err, fs.ErrNotExist) {
		err = askDocker(ctx, filepath.Join(root, dockerSocket), c.ID, &state)
	}
	return strings.TrimPrefix(state.Name, "/"), err
}

// openHome opens the home directory of a user.
func openHome(root, uid string) (*os.Root, error) {
	home, err := homeOf(system(root), uid)
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(filepath.Join(root, home))
}

// askDocker asks the daemon for the state of a container. The socket must belong to root.
func askDocker(ctx context.Context, socket, id string, to any) error {
	var st unix.Stat_t
	if err := unix.Stat(socket, &st); err != nil {
		return fmt.Errorf("find %s: %w", socket, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Uid != 0 {
		return fmt.Errorf("%s is not a socket of root", socket)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/"+id+"/json", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s for container %s: %s", socket, id, res.Status)
	}
	return json.NewDecoder(io.LimitReader(res.Body, maxFile)).Decode(to)
}

// podmanDirs are the directories below a storage directory that have lists of containers, one
// for each storage driver. Containers that are removed when they exit are in a list of their
// own.
var podmanDirs = []string{"overlay-containers", "btrfs-containers", "zfs-containers", "vfs-containers"}

// podmanName returns the name of a podman container from the lists of its storage. The storage of
// a user is in the home directory. Links there must not point out of it.
func podmanName(root string, c Cgroup) (string, error) {
	open := system(root)
	storage := []string{"var/lib/containers/storage", "run/containers/storage"}
	if c.User != "" {
		dir, err := openHome(root, c.User)
		if err != nil {
			return "", err
		}
		defer dir.Close()
		open = within(dir)
		storage = []string{".local/share/containers/storage"}
	}
	for _, dir := range storage {
		for _, driver := range podmanDirs {
			for _, list := range []string{"containers.json", "volatile-containers.json"} {
				name, err := podmanEntry(open, filepath.Join(dir, driver, list), c.ID)
				if name != "" || err != nil {
					return name, err
				}
			}
		}
	}
	return "", nil
}

// podmanEntry returns the name of a container in one list, which need not exist.
func podmanEntry(open opener, file, id string) (string, error) {
	var all []struct {
		ID    string   `json:"id"`
		Names []string `json:"names"`
	}
	err := readJSON(open, file, &all)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, c := range all {
		if c.ID == id && len(c.Names) > 0 {
			return c.Names[0], nil
		}
	}
	return "", nil
}

// podName returns the name of a pod or of a container in it.
func podName(open opener, c Cgroup) (string, error) {
	name, err := loggedPod(open, c)
	if strings.Count(name, "/") < 2 && c.ID != "" {
		if fromBundle, bundleErr := bundleName(open, c.ID); fromBundle != "" {
			return fromBundle, nil
		} else if name == "" {
			err = errors.Join(err, bundleErr)
		}
	}
	return name, err
}

// loggedPod returns NAMESPACE/POD or, if the container is known, NAMESPACE/POD/CONTAINER, from
// the names of the kubelet's log files.
func loggedPod(open opener, c Cgroup) (string, error) {
	pod, err := find(open, podLogs, func(name string) string {
		// Neither namespaces nor names of pods contain an underscore.
		f := strings.Split(name, "_")
		if len(f) != 3 || f[2] != c.Pod {
			return ""
		}
		return f[0] + "/" + f[1]
	})
	if pod == "" || c.ID == "" {
		return pod, err
	}
	namespace, name, _ := strings.Cut(pod, "/")
	container, err := find(open, containerLogs, func(file string) string {
		file, of := strings.CutSuffix(file, "-"+c.ID+".log")
		container, in := strings.CutPrefix(file, name+"_"+namespace+"_")
		if !of || !in {
			return ""
		}
		return container
	})
	if container != "" {
		pod += "/" + container
	}
	if errors.Is(err, fs.ErrNotExist) { // not all runtimes have them
		err = nil
	}
	return pod, err
}
