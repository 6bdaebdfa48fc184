// SPDX-License-Identifier: Apache-2.0

// Package agent watches the pods of one node and all namespaces at a Kubernetes API server, and
// keeps the file of package podfile up to date. Of the objects it receives only the metadata.
//
// It is a program of its own (cmd/sotto-kubernetes), not a part of Sotto: linked into Sotto,
// client-go adds 5 MB and a millisecond to every start of `sotto`, and the process that is privileged on the
// node would hold credentials for the API.
package agent
