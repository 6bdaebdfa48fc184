// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// probe is one way to send a query.
type probe struct{ tcp, v6 bool }

func probes() []probe {
	return []probe{{}, {tcp: true}, {v6: true}, {tcp: true, v6: true}}
}

func (p probe) String() string {
	name := "udp"
	if p.tcp {
		name = "tcp"
	}
	if p.v6 {
		return name + "6"
	}
	return name + "4"
}

// kind is what an error says about the place where a query was lost.
type kind uint8

const (
	noPath    kind = iota // the namespace has no address or no route: it could not query without Sotto either
	cancelled             // the test was stopped
	denied                // dropped on output in the namespace of the socket
	refused               // rejected somewhere
	lost                  // no answer: dropped somewhere
	noSlot                // Sotto has no virtual address for it
)

// errNoAddress means that the namespace has no address of a family, except loopback and link-local
// ones and those of Sotto's link.
var errNoAddress = errors.New("no address of this family")

// errNotEntered means that the namespace could not be entered.
var errNotEntered = errors.New("the network namespace cannot be entered")

func kindOf(err error) kind {
	switch {
	case errors.Is(err, errNoAddress), errors.Is(err, errNotEntered), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EADDRNOTAVAIL):
		return noPath
	case errors.Is(err, context.Canceled):
		return cancelled
	case errors.Is(err, unix.EPERM):
		return denied
	case errors.Is(err, unix.ENOBUFS):
		return noSlot
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return lost
	}
	return refused
}

// failure is a query that was not answered.
type failure struct {
	probe
	err error
}

func (f failure) kind() kind { return kindOf(f.err) }
