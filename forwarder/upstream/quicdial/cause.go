// SPDX-License-Identifier: Apache-2.0

package quicdial

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"

	"github.com/quic-go/quic-go"

	"sotto/forwarder/upstream/transport"
)

// Cause returns an error of quic-go as the same failure over TCP is reported, so that it is
// described and counted alike; other errors are returned as they are.
func Cause(err error) error {
	var handshake *quic.HandshakeTimeoutError
	var idle *quic.IdleTimeoutError
	var reset *quic.StatelessResetError
	var app *quic.ApplicationError
	var proto *quic.TransportError
	switch {
	case errors.Is(err, syscall.EDESTADDRREQ):
		return syscall.ECONNABORTED // a socket that a program on this machine disconnected (SOCK_DESTROY)
	case errors.As(err, &handshake):
		return transport.ErrTimeout
	case errors.As(err, &idle):
		return transport.ErrSilent
	case errors.As(err, &reset), errors.As(err, &app) && app.Remote:
		return syscall.ECONNRESET
	case errors.As(err, &proto) && proto.Remote && proto.ErrorCode.IsCryptoError():
		return &net.OpError{Op: "remote error", Net: "udp", Err: tls.AlertError(uint8(proto.ErrorCode))} // RFC 9001 §4.8
	case errors.As(err, &proto) && proto.Remote && proto.ErrorCode == quic.ConnectionRefused:
		return errRefused
	case errors.As(err, &proto) && proto.Remote:
		return syscall.ECONNRESET
	}
	return err
}

// errRefused is returned for a server that refuses connections at the moment.
var errRefused = errors.New("the server refuses QUIC connections")
