// SPDX-License-Identifier: Apache-2.0

package e2e

// Exit statuses of sotto.
const (
	ExitFailure   = 1
	ExitUsage     = 2
	ExitCannotRun = 126 // of exec: the command cannot be run
	ExitNotFound  = 127 // of exec: the command was not found
)

// Names that `run` uses on the machine.
const (
	Instance      = "sotto"
	ControlSocket = "/run/sotto/control.sock"
)
