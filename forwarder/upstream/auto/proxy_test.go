// SPDX-License-Identifier: Apache-2.0

package auto

import (
	"slices"
	"testing"

	"sotto/forwarder/upstream/proxy"
	"sotto/forwarder/upstream/transport"
)

// TestProxy: with a proxy only the protocols over TCP are tried.
func TestProxy(t *testing.T) {
	var made []transport.Protocol
	cfg := transport.Config{Proxy: &proxy.Proxy{}}
	_, err := New(cfg, Options{Port: transport.Protocol.Port, New: func(cfg transport.Config) (transport.Transport, error) {
		made = append(made, cfg.Server.Protocol)
		return &path{cfg: cfg}, nil
	}})
	if err != nil || !slices.Equal(made, []transport.Protocol{transport.DoT, transport.DoH}) {
		t.Errorf("%v, %v: want DoT and DoH", made, err)
	}
}
