// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"time"

	"sotto/forwarder/upstream/transport"
)

// The key share of X25519MLKEM768 makes the ClientHello longer than a packet. Some
// middleboxes drop, or reset, a connection whose ClientHello is in two packets. If nothing of
// the server arrives, the handshake is therefore repeated without it, which an attacker on
// the path can cause as well: the connection is then as safe as any before that key exchange
// existed.

// classicTime is how long an address gets handshakes without X25519MLKEM768 after those with
// it were dropped. Then it is tried again.
const classicTime = time.Hour

// errIgnored cancels a handshake with X25519MLKEM768 of which the server seems to have
// received nothing.
var errIgnored = errors.New("no reply to the ClientHello")

// hybridLimit returns how long a handshake with X25519MLKEM768 may be ignored: two fifths of
// the time for a dial, so that enough is left for one without.
func (d *Dialer) hybridLimit() time.Duration { return d.cfg.DialTimeout * 2 / 5 }

// limitHybrid returns a context for a handshake that is canceled if the handshake has
// X25519MLKEM768 and is ignored for hybridLimit. The caller calls stop.
func (d *Dialer) limitHybrid(ctx context.Context, h *Handshake) (limited context.Context, stop func()) {
	if !h.offersHybrid() {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(d.hybridLimit(), func() {
		if h.isIgnored() {
			cancel(errIgnored)
		}
	})
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}

// offersHybrid reports whether the handshake offers X25519MLKEM768.
func (h *Handshake) offersHybrid() bool { return !h.Classic && h.group == 0 }

// isDropped reports whether a handshake failed as one does whose first message is dropped
// on the path.
func isDropped(err error) bool {
	return transport.IsTimeout(err) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// isClassic reports whether handshakes with that address leave out X25519MLKEM768.
func (d *Dialer) isClassic(addr netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.classic[addr])
}

// useClassic records that a handshake with X25519MLKEM768 was dropped, and one without was
// not. If it was only silent, packets may have been lost: it has to happen twice in a row.
func (d *Dialer) useClassic(addr netip.AddrPort, silent bool) {
	d.mu.Lock()
	first := silent && !d.silent[addr]
	d.silent[addr] = true
	if !first {
		d.classic[addr] = time.Now().Add(classicTime)
	}
	d.mu.Unlock()
	if first {
		return
	}
	d.cfg.Log.Warn("post-quantum key exchange not used: handshakes with X25519MLKEM768 are dropped on the path, or by the server",
		"server", d.cfg.Server.String(), "address", addr.String(), "for", classicTime)
}
