// SPDX-License-Identifier: Apache-2.0

// Package names finds the names that people know for workloads: from the path of a cgroup to
// the systemd unit, the name of a Docker or podman container, or the namespace and name of a
// Kubernetes pod.
//
// [Parse] is pure: it returns what the path itself says. A path is trusted as far as only root
// can create its cgroups. Whatever is below the slice of a user is named with the UID first,
// because that user can create any cgroup there.
//
// A [Resolver] adds the names of containers and pods, which it reads from the files of their
// runtimes, or asks the Docker daemon for. It does that in the background, and keeps a bounded
// number of results.
package names
