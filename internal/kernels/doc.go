// SPDX-License-Identifier: Apache-2.0

// Package kernels keeps the results of scripts/vm-test.sh, which boots other kernels and runs the
// tests that depend on the kernel: docs/kernels.json. [ParseLog] reads what the guest wrote on its
// console (scripts/vm-guest.sh), [Results.Add] replaces older results of the same parts, and
// [Results.Table] is the table of supported kernels in README.md, which a test compares with the
// file. The program in the folder update does all three.
package kernels
