// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/httpdns"
	"sotto/forwarder/upstream/proxy"
	"sotto/forwarder/upstream/transport"
)

func TestFix(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	invalid := func(from, to time.Time) error {
		return x509.CertificateInvalidError{Cert: &x509.Certificate{NotBefore: from, NotAfter: to}, Reason: x509.Expired}
	}
	trust := func(err error) error { return &transport.TrustError{Reason: "reason", Err: err} }
	for want, err := range map[string]error{
		"":                   errors.New("something else"),
		"^set the clock":     trust(invalid(now.Add(time.Hour), now.Add(2*time.Hour))),
		"if the clock":       trust(invalid(now.Add(-2*time.Hour), now.Add(-time.Hour))),
		"ca-certificates":    trust(x509.SystemRootsError{}),
		"ca-file":            trust(x509.UnknownAuthorityError{}),
		"ADDRESS#NAME":       trust(x509.HostnameError{}),
		"new pin":            trust(nil),
		"client-cert":        &transport.ClientCertError{Err: errors.New("alert")},
		"check the name":     &transport.LookupError{Name: "dns.example", Err: transport.ErrTimeout},
		"check the port:":    tls.RecordHeaderError{},
		"check the address":  syscall.ECONNREFUSED,
		"address family":     syscall.ENETUNREACH,
		"packet filter":      syscall.EPERM,
		"of the network, or": transport.ErrTimeout,
		"setting proxy":      &proxy.Error{Proxy: "http://192.0.2.8:3128", Err: syscall.ECONNREFUSED},
		"that it supports":   &transport.ProtocolError{Want: "h2"},
		"limits the number":  &httpdns.StatusError{Code: 429},
		"operator of the":    &httpdns.StatusError{Code: 403},
		"check the path:":    &httpdns.StatusError{Code: 404},
		"has failed:":        &httpdns.StatusError{Code: 502},
	} {
		s := transport.Server{}
		got := Fix(transport.NewError(s, time.Second, &transport.DialError{Err: fmt.Errorf("dial: %w", err)}), now)
		start, anchored := strings.CutPrefix(want, "^")
		if want == "" && got != "" || !strings.Contains(got, start) || anchored && !strings.HasPrefix(got, start) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
