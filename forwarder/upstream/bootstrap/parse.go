// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sotto/forwarder/wire"
)

// appendQuery returns a padded query for a name.
func appendQuery(name string, qtype dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, fmt.Errorf("make a query for %q: %w", name, err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: qtype, Class: dnsmessage.ClassINET}},
	}
	msg, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("make a query for %q: %w", name, err)
	}
	q, err := wire.ParseQuery(msg)
	if err != nil {
		return nil, fmt.Errorf("make a query for %q: %w", name, err)
	}
	return wire.AppendQuery(nil, &q), nil
}

// parseReply returns the addresses that a reply has for a name, following aliases, and the
// least TTL on the way. Addresses that no server can have are left out. It returns an error
// if the reply is not an answer; that the name has no address is none.
func parseReply(name string, reply []byte) (addrs []netip.Addr, ttl time.Duration, err error) {
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil {
		return nil, 0, fmt.Errorf("read the reply: %w", err)
	}
	if m.RCode != dnsmessage.RCodeSuccess && m.RCode != dnsmessage.RCodeNameError {
		return nil, 0, fmt.Errorf("the reply is %s", wire.RcodeName(wire.Rcode(reply)))
	}
	owners := []string{strings.ToLower(name) + "."}
	least := uint32(1<<32 - 1)
	for range m.Answers { // aliases may be in any order
		for _, rr := range m.Answers {
			alias, ok := rr.Body.(*dnsmessage.CNAMEResource)
			if !ok || !slices.Contains(owners, strings.ToLower(rr.Header.Name.String())) {
				continue
			}
			if target := strings.ToLower(alias.CNAME.String()); !slices.Contains(owners, target) {
				owners = append(owners, target)
				least = min(least, rr.Header.TTL)
			}
		}
	}
	for _, rr := range m.Answers {
		var ip netip.Addr
		switch body := rr.Body.(type) {
		case *dnsmessage.AResource:
			ip = netip.AddrFrom4(body.A)
		case *dnsmessage.AAAAResource:
			ip = netip.AddrFrom16(body.AAAA).Unmap()
		}
		if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || slices.Contains(addrs, ip) ||
			!slices.Contains(owners, strings.ToLower(rr.Header.Name.String())) {
			continue
		}
		addrs = append(addrs, ip)
		least = min(least, rr.Header.TTL)
	}
	return addrs, time.Duration(least) * time.Second, nil
}
