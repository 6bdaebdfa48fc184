// SPDX-License-Identifier: Apache-2.0

package address

import (
	"encoding/base64"
	"fmt"
	"strings"

	"sotto/forwarder/upstream/transport"
)

// ParsePin parses "sha256/BASE64". The base64 part is the output of
//
//	openssl x509 -pubkey -noout | openssl pkey -pubin -outform der |
//	openssl dgst -sha256 -binary | base64
func ParsePin(s string) (transport.Pin, error) {
	var p transport.Pin
	text, ok := strings.CutPrefix(s, transport.PinPrefix)
	if !ok {
		return p, fmt.Errorf("read the pin %q: want sha256/BASE64", s)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return p, fmt.Errorf("read the pin %q: %w: want sha256/ and 44 characters of base64", s, err)
	}
	if len(raw) != len(p) {
		return p, fmt.Errorf("read the pin %q: its length is %d bytes: want the %d of a SHA-256", s, len(raw), len(p))
	}
	copy(p[:], raw)
	return p, nil
}
