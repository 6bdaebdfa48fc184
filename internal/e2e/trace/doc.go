// SPDX-License-Identifier: Apache-2.0

// Package trace tests what sotto trace and sotto status say about clients.
package trace
