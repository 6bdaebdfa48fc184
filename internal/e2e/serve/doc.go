// SPDX-License-Identifier: Apache-2.0

// Package serve tests `sotto serve` as one of several instances. It needs no privileges.
package serve
