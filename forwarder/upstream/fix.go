// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"syscall"
	"time"

	"sotto/forwarder/upstream/transport"
)

// Fix returns what an operator can do about an error of [Group.Exchange] at the time now, or ""
// if no more is known than the error says.
func Fix(err error, now time.Time) string {
	var untrusted *transport.TrustError
	var clientCert *transport.ClientCertError
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &untrusted):
		return trustFix(untrusted, now)
	case errors.As(err, &clientCert):
		return "configure client-cert and client-key with a certificate that the operator of the server accepts"
	case errors.As(err, &header):
		return "check the port: DNS over TLS usually has TCP port 853"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check the address and the port (DNS over TLS usually has TCP port 853), or use another upstream"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "connect this machine to the network, or use an upstream of the other address family"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "permit connections to the server in the packet filter of this machine"
	case transport.IsTimeout(err), errors.Is(err, transport.ErrSilent):
		return "permit connections to the server in the firewall of the network, or use another upstream"
	}
	return ""
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
