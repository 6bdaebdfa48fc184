// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"

	"sotto/forwarder/upstream/auto"
	"sotto/forwarder/upstream/doh"
	"sotto/forwarder/upstream/doh3"
	"sotto/forwarder/upstream/doq"
	"sotto/forwarder/upstream/dot"
	"sotto/forwarder/upstream/httpdns"
	"sotto/forwarder/upstream/transport"
)

// newTransport returns the transport to a server, which checkProtocol accepts.
func newTransport(cfg transport.Config) (transport.Transport, error) {
	switch cfg.Server.Protocol {
	case transport.DoT:
		return dot.New(cfg), nil
	case transport.DoH:
		return doh.New(cfg)
	case transport.DoH3:
		return doh3.New(cfg)
	case transport.DoQ:
		return doq.New(cfg), nil
	case transport.Auto:
		return auto.New(cfg, auto.Options{New: newTransport, Port: transport.Protocol.Port, Probe: transport.ProbeQuery})
	}
	return nil, fmt.Errorf("unknown protocol %s", cfg.Server.Protocol)
}

// checkProtocol returns an error if no transport supports the server.
func checkProtocol(s Server) error {
	switch s.Protocol {
	case transport.DoH, transport.DoH3, transport.Auto:
		return httpdns.CheckPath(s.Path)
	case transport.DoT, transport.DoQ:
		if s.Path != "" || s.Host != "" {
			return fmt.Errorf("%s has no path and no authority: remove them, or use DNS over HTTPS", s.Protocol)
		}
		return nil
	}
	return fmt.Errorf("unknown protocol %s", s.Protocol)
}
