// SPDX-License-Identifier: Apache-2.0

// Package podfile is the file by which sotto-kubernetes, which watches the API server, gives the
// labels of this node's pods to Sotto. The process that is privileged on the node therefore has
// no credentials for the API and parses nothing that comes from there but this file.
//
// [Encode] and [Decode] are pure. [Write] replaces a file in one step; [Read] accepts it only from
// root or its own user.
package podfile
