// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"slices"
	"strings"

	"sotto/forwarder/upstream/address"
	"sotto/forwarder/upstream/transport"
)

// Server is one server and how it is authenticated.
type Server = transport.Server

// Pin is the SHA-256 of a public key.
type Pin = transport.Pin

// serverKeys returns strings that identify a server: two servers with a key in common are
// the same one at that address.
func serverKeys(s Server) []string {
	hashes := slices.Concat(s.Pins, s.CertHashes)
	slices.SortFunc(hashes, func(a, b Pin) int { return strings.Compare(string(a[:]), string(b[:])) })
	suffix := fmt.Sprintf("#%s %x %s %s%s", s.Name, hashes, s.Protocol, s.Host, s.Path)
	if !s.HasAddr() {
		return []string{fmt.Sprintf(":%d", s.Addr.Port()) + suffix}
	}
	var keys []string
	for _, a := range s.Addrs() {
		keys = append(keys, a.String()+suffix)
	}
	return keys
}

// checkServers returns an error if a list of servers is not valid.
func checkServers(servers []Server) error {
	seen := make(map[string]bool)
	for _, s := range servers {
		if err := checkServer(s); err != nil {
			return err
		}
		for _, key := range serverKeys(s) {
			if seen[key] {
				return fmt.Errorf("%s is listed twice: remove one", s)
			}
			seen[key] = true
		}
	}
	return nil
}

func checkServer(s Server) error {
	if err := checkProtocol(s); err != nil {
		return err
	}
	if s.Name != "" {
		if err := address.CheckName(s.Name); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	addrs := s.Addrs()
	if len(addrs) == 0 {
		addrs = append(addrs, s.Addr)
	}
	for _, a := range addrs {
		if !a.Addr().IsValid() && (s.Name == "" || len(s.Also) > 0) || (a.Port() == 0) != (s.Protocol == transport.Auto) {
			return fmt.Errorf("%q is not an address with a port", a)
		}
	}
	return nil
}
