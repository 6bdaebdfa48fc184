// SPDX-License-Identifier: Apache-2.0

// Package resolve tests that real DNS clients and libraries get the same answers through a seal.
package resolve
