// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// attemptDelay is the time after which the next address is tried concurrently (RFC 8305
// §5, "Connection Attempt Delay").
const attemptDelay = 250 * time.Millisecond

// errRaceLost cancels the attempts that are slower than the first that succeeds.
var errRaceLost = errors.New("another address was faster")

// race connects to the addresses in this order, starting one attempt after the other
// without waiting for the previous one, and returns the first connection on which the
// server is authenticated. Unlike in RFC 8305, the TLS handshake decides and not TCP's: an
// address may accept connections and then stay silent. The other attempts are canceled;
// their goroutines belong to wg, and discard closes a connection that is not needed.
func race[T any](
	ctx context.Context, wg *sync.WaitGroup, addrs []netip.AddrPort,
	connect func(context.Context, netip.AddrPort) (T, error), discard func(T),
) (T, error) {
	if len(addrs) == 1 {
		return connect(ctx, addrs[0])
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errRaceLost)
	type result struct {
		conn T
		err  error
	}
	results := make(chan result)
	start := func(addr netip.AddrPort) {
		wg.Go(func() {
			c, err := connect(ctx, addr)
			select {
			case results <- result{c, err}:
			case <-ctx.Done():
				if err == nil {
					discard(c)
				}
			}
		})
	}
	var none T
	var errs []error
	var next <-chan time.Time // nil if the next attempt starts now or no address is left
	for pending := 0; ; {
		if len(addrs) > 0 && (pending == 0 || next == nil) {
			start(addrs[0])
			pending++
			addrs = addrs[1:]
			next = nil
			if len(addrs) > 0 {
				next = time.After(attemptDelay)
			}
		}
		select {
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if pending--; pending == 0 && len(addrs) == 0 {
				return none, mostSpecific(errs)
			}
			next = nil // start the next attempt now
		case <-next:
			next = nil
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
}

// raceOrder returns the order in which addresses are tried: the one that worked last, if
// any, then alternating families, IPv6 first, each in the order given (RFC 8305 §4, with
// a First Address Family Count of one). It is pure.
func raceOrder(addrs []netip.AddrPort, last netip.AddrPort) []netip.AddrPort {
	var families [2][]netip.AddrPort // IPv6, IPv4
	turn := 0
	order := make([]netip.AddrPort, 0, len(addrs))
	if slices.Contains(addrs, last) {
		order = append(order, last)
		turn = 1 - family(last)
	}
	for _, a := range addrs {
		if len(order) == 0 || a != order[0] {
			families[family(a)] = append(families[family(a)], a)
		}
	}
	for len(families[0])+len(families[1]) > 0 {
		if f := families[turn]; len(f) > 0 {
			order, families[turn] = append(order, f[0]), f[1:]
		}
		turn = 1 - turn
	}
	return order
}

// family returns the index of an address's family: IPv6 is 0, IPv4 is 1.
func family(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return 1
	}
	return 0
}

// mostSpecific returns the first error that is not a missing route, if there is one: many
// machines have no IPv6, which is not why the server cannot be reached. Otherwise it prefers a
// missing route or address of one family to a family that is not available.
func mostSpecific(errs []error) error {
	best := errs[0]
	for _, err := range errs {
		switch {
		case errors.Is(err, syscall.EAFNOSUPPORT):
		case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
			if errors.Is(best, syscall.EAFNOSUPPORT) {
				best = err
			}
		default:
			return err
		}
	}
	return best
}
