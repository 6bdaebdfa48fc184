// SPDX-License-Identifier: Apache-2.0

// Package cluster makes the built-in rules for the names of a Kubernetes cluster: those under its
// domain, and the reverse names of its networks. Only the cluster's own resolver knows them.
//
// A name and a nameserver together select plain DNS. By the name alone, a pod whose resolv.conf
// is that of the node would send secret.cluster.local to 8.8.8.8 in plain; by the nameserver
// alone, every name would go in plain to a resolver that may be on another node.
//
// A name of the cluster that is asked elsewhere must not leave in plain, and an upstream behind
// TLS does not know it either, but would learn it. If no public server can have the name, it is
// answered here as a public server would answer it: it does not exist.
//
// The package is pure.
package cluster
