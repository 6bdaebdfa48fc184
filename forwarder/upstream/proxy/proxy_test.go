// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Proxy{
		"socks5://192.0.2.1:1080":                {Scheme: SOCKS5},
		"socks5h://192.0.2.1:1080/":              {Scheme: SOCKS5},
		"http://192.0.2.1:1080":                  {Scheme: HTTP},
		"http://[::ffff:192.0.2.1]:1080":         {Scheme: HTTP},
		"http://user@192.0.2.1:1080":             {Scheme: HTTP, User: "user"},
		"socks5://us%3Aer:p%40ss@192.0.2.1:1080": {Scheme: SOCKS5, User: "us:er", Password: "p@ss"},
	} {
		p, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if p.Addr.String() != "192.0.2.1:1080" || p.Scheme != want.Scheme || p.User != want.User || p.Password != want.Password {
			t.Errorf("%s: %+v, want %+v", in, *p, want)
		}
		if s := p.String(); s != want.Scheme+"://192.0.2.1:1080" {
			t.Errorf("%s is shown as %s", in, s)
		}
	}
	for in, want := range map[string]string{
		"192.0.2.1:1080":                     "not a URL",
		"":                                   "is not a kind of proxy",
		"socks4://192.0.2.1:1080":            "is not a kind of proxy: want socks5://",
		"https://192.0.2.1:443":              "use http://",
		"socks5://proxy.example:1080":        "is not an IP address and a port",
		"socks5://192.0.2.1":                 "is not an IP address and a port",
		"socks5://192.0.2.1:0":               "is not an IP address and a port",
		"socks5://0.0.0.0:1080":              "is not an IP address and a port",
		"http://192.0.2.1:3128/path":         "more than an address",
		"socks5://user@192.0.2.1:1080":       "the password for the proxy is empty",
		"http://user:secret@192.0.2.1:1 080": "not a URL",
	} {
		_, err := Parse(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", in, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error shows the password: %v", in, err)
		}
	}
}
