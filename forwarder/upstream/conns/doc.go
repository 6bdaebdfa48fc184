// SPDX-License-Identifier: Apache-2.0

// Package conns keeps the connections of a transport to one server: [Set] opens them, assigns
// queries to them, replaces old ones and closes unused ones.
package conns
