// SPDX-License-Identifier: Apache-2.0

// Package test checks the manifests of deploy/kubernetes and the Helm chart of deploy/helm: that both
// render, and that they render the same objects.
//
// It is a module of its own, so that Sotto does not depend on Helm and kustomize. Run
// `go test ./...` in this folder.
package test
