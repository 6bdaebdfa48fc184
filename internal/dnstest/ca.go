// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// caLifetime is how long a CA and, unless told otherwise, its certificates are
// valid. They are throwaway: a demo or a test ends sooner.
const caLifetime = 24 * time.Hour

// clockSkew backdates certificates, for machines whose clocks differ a little.
const clockSkew = 5 * time.Minute

// CA is a certificate authority whose key lives in memory and dies with it.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CertOptions describe one server certificate. The zero value of a time means
// a certificate that is valid now.
type CertOptions struct {
	Names     []string // DNS subject alternative names
	IPs       []netip.Addr
	NotBefore time.Time
	NotAfter  time.Time
	Key       *ecdsa.PrivateKey // nil: a new P-256 key
}

// NewCA makes a CA with a fresh ECDSA P-256 key.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a CA key: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Sotto throwaway CA"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign a CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the CA certificate back: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// PEM is the CA's certificate, as a --ca-file holds it.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Pool holds the CA's certificate alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Certificate is the CA's own certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Issue signs a server certificate. The chain that it returns carries the CA's
// certificate too.
func (ca *CA) Issue(opts CertOptions) (tls.Certificate, error) {
	if len(opts.Names)+len(opts.IPs) == 0 {
		return tls.Certificate{}, errors.New("issue a certificate: it needs a name or an address")
	}
	key := opts.Key
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return tls.Certificate{}, fmt.Errorf("make a certificate key: %w", err)
		}
	}
	tmpl := ca.template(opts)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read a certificate back: %w", err)
	}
	return tls.Certificate{
		Certificate: [][]byte{der, ca.cert.Raw},
		PrivateKey:  key,
		Leaf:        leaf,
	}, nil
}

func (ca *CA) template(opts CertOptions) *x509.Certificate {
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "Sotto throwaway upstream"},
		DNSNames:     opts.Names,
		NotBefore:    opts.NotBefore,
		NotAfter:     opts.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range opts.IPs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(ip.Unmap().AsSlice()))
	}
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = time.Now().Add(-clockSkew)
	}
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = time.Now().Add(caLifetime)
	}
	return tmpl
}

// serial is random, as RFC 5280 §4.1.2.2 allows: positive, at most 20 octets.
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails since Go 1.24
	return new(big.Int).Add(new(big.Int).SetBytes(b[:]), big.NewInt(1))
}
