// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"sotto/internal/config"
	"sotto/internal/daemon"
	"sotto/internal/takeover"
)

// Short names of identifiers that the end-to-end tests use often.
const (
	sayReady    = takeover.MsgReady
	saySockets  = takeover.MsgSockets
	sayTake     = takeover.MsgTake
	sayDone     = takeover.MsgDone
	sayNo       = takeover.MsgRefused
	sayReplaced = takeover.MsgReplaced
	sayTaken    = takeover.MsgTaken

	defaultControl = config.DefaultControl
	openAfter      = config.OpenAfter
	replacedExit   = config.ReplacedExit
	replacedWait   = config.ReplacedWait

	runName     = daemon.InstanceName
	staysClosed = daemon.StaysClosed
)

var (
	keepRun     = daemon.RunCapabilities
	keepExec    = daemon.ExecCapabilities
	errStopping = daemon.ErrStopping
	errGoesOn   = takeover.ErrTooLate
)

func expect(c *takeover.Conn, kind byte) error { return c.Expect(kind) }

// catchReloads starts the runtime's goroutine for signals, which stays.
func catchReloads() chan os.Signal {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	return hup
}

// decodeReplaced returns the identities in a MsgReplaced.
func decodeReplaced(data []byte) (ids []string, err error) {
	err = json.Unmarshal(data, &ids)
	return ids, err
}
