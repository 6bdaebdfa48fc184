// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// attemptDelay is how long an address is alone before the next one is tried beside
// it (RFC 8305 §5, "Connection Attempt Delay").
const attemptDelay = 250 * time.Millisecond

// race connects to the server's addresses, one after the other begun without waiting
// for the one before, and returns the first connection on which the server is
// authenticated. It is not TCP's handshake that decides, as with RFC 8305, but TLS's:
// what accepts and then says nothing is no server. The others are given up.
func (p *pool) race(ctx context.Context) (*handshake, error) {
	p.mu.Lock()
	best := p.best
	p.mu.Unlock()
	addrs := raceOrder(p.server.addrs(), best)
	if len(addrs) == 1 {
		return p.secure(ctx, addrs[0])
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errOutrun)
	results := make(chan result)
	var errs []error
	var next <-chan time.Time // nil: no address is left to begin with
	for pending := 0; ; {
		if len(addrs) > 0 && (pending == 0 || next == nil) {
			p.attempt(ctx, addrs[0], results)
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
				return r.h, nil
			}
			errs = append(errs, r.err)
			if pending--; pending == 0 && len(addrs) == 0 {
				return nil, mostTelling(errs)
			}
			next = nil // at once
		case <-next:
			next = nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// result is what became of one attempt.
type result struct {
	h   *handshake
	err error
}

// attempt tries one address in the background, and closes what nobody wants any
// more when it is there.
func (p *pool) attempt(ctx context.Context, addr netip.AddrPort, results chan<- result) {
	p.wg.Go(func() {
		h, err := p.secure(ctx, addr)
		select {
		case results <- result{h, err}:
		case <-ctx.Done():
			if err == nil {
				h.close()
			}
		}
	})
}

// raceOrder is in which order addresses are tried: the one that worked last, if any,
// then families in turn, IPv6 first, each in the order given (RFC 8305 §4, with a
// First Address Family Count of one). It is pure.
func raceOrder(addrs []netip.AddrPort, best netip.AddrPort) []netip.AddrPort {
	var families [2][]netip.AddrPort // IPv6, IPv4
	turn := 0
	order := make([]netip.AddrPort, 0, len(addrs))
	if slices.Contains(addrs, best) {
		order = append(order, best)
		turn = 1 - family(best)
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

func family(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return 1
	}
	return 0
}

// mostTelling is the first of the failures that is more than a missing route: a
// machine without IPv6 is no news, and not why the server cannot be reached.
func mostTelling(errs []error) error {
	for _, err := range errs {
		if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) &&
			!errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EAFNOSUPPORT) {
			return err
		}
	}
	return errs[0]
}
