// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"syscall"
	"time"

	"sotto/forwarder/upstream/httpdns"
	"sotto/forwarder/upstream/proxy"
	"sotto/forwarder/upstream/transport"
)

// Fix returns what an operator can do about an error of [Group.Exchange] at the time now, or ""
// if no more is known than the error says.
func Fix(err error, now time.Time) string {
	var untrusted *transport.TrustError
	var clientCert *transport.ClientCertError
	var header tls.RecordHeaderError
	var behind *proxy.Error
	var protocol *transport.ProtocolError
	var status *httpdns.StatusError
	var lookup *transport.LookupError
	switch {
	case errors.As(err, &lookup):
		return "check the name, and the servers that resolve it: those under bootstrap, or else the upstreams with an address"
	case errors.As(err, &behind):
		return "check the setting proxy, and that the proxy " + behind.Proxy + " runs and permits connections to the server"
	case errors.As(err, &protocol):
		return "use the server with a protocol that it supports, or another upstream"
	case errors.As(err, &status):
		return statusFix(status)
	case errors.As(err, &untrusted):
		return trustFix(untrusted, now)
	case errors.As(err, &clientCert):
		return "configure client-cert and client-key with a certificate that the operator of the server accepts"
	case errors.As(err, &header):
		return "check the port: DNS over TLS usually has TCP port 853, DNS over HTTPS 443"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check the address, the protocol and the port (usually 853 for DNS over TLS and QUIC, 443 for DNS over HTTPS), or use another upstream"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "connect this machine to the network, or use an upstream of the other address family"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "permit connections to the server in the packet filter of this machine"
	case transport.IsTimeout(err), errors.Is(err, transport.ErrSilent):
		return "permit connections to the server in the firewall of the network, or use another upstream"
	}
	return ""
}

// statusFix is [Fix] for a response of HTTP without a DNS message.
func statusFix(err *httpdns.StatusError) string {
	switch {
	case err.Code == http.StatusTooManyRequests:
		return "use another upstream as well: this one limits the number of queries"
	case err.Code == http.StatusUnauthorized, err.Code == http.StatusForbidden:
		return "check the path with the operator of the server, which may be the password"
	case err.Code/100 == 4:
		return "check the path: most servers have " + httpdns.DefaultPath
	}
	return "the server, or the DNS server behind it, has failed: use another upstream"
}

// trustFix is [Fix] for a server that could not be authenticated.
func trustFix(err *transport.TrustError, now time.Time) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var noRoots x509.SystemRootsError
	var host x509.HostnameError
	switch {
	case errors.As(err.Err, &invalid) && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
		return setClock
	case errors.As(err.Err, &invalid) && invalid.Reason == x509.Expired:
		return "if the clock is right, the operator of the server has to renew the certificate: use another upstream; else " + setClock
	case errors.As(err.Err, &noRoots):
		return "install the package ca-certificates"
	case errors.As(err.Err, &unknown):
		return "set ca-file to a file with the CA's certificate if the server is yours; else another server answers in its place: use another upstream"
	case errors.As(err.Err, &host):
		return "write the name that is in the certificate after the address: ADDRESS#NAME"
	case err.Err == nil:
		return "if the operator of the server has changed its key, set the new pin; else another server answers in its place"
	}
	return ""
}

const setClock = "set the clock of this machine: timedatectl set-ntp true, or date --set"
