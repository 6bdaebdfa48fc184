// SPDX-License-Identifier: Apache-2.0

// Package pods finds the Kubernetes pod of a workload: its name from the directories that the
// kubelet creates for logs, and its labels from the file that sotto-kubernetes writes.
//
// An [Index] knows all pods of the node before they ask anything: the kubelet creates the
// directory before it starts a pod, and the API server has the labels before that. The look-up
// for a query takes two maps, neither blocks nor allocates, and says so where something is not
// known. Changes are found by polling, because that also works for directories that are mounted
// from elsewhere.
package pods
