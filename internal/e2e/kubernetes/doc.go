// SPDX-License-Identifier: Apache-2.0

// Package kubernetes tests `sotto run` as on a node of a Kubernetes cluster: with cgroups like
// those of pods, a kubelet's configuration, and the file of sotto-kubernetes. A real cluster is in
// scripts/kubernetes-test.sh.
package kubernetes
