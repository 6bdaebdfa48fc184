// SPDX-License-Identifier: Apache-2.0

// Package exec tests sotto exec: the real program in a network lab.
package exec
