// SPDX-License-Identifier: Apache-2.0

package service

import (
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// Sockets returns the sockets that the service manager passed to this process
// ($LISTEN_FDS), and removes the variables, so that child processes do not use them. The
// caller closes the files.
func Sockets() []*os.File { return activation.Files(true) }
