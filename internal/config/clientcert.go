// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// planClientCert reads the certificate with which a group authenticates to its servers into
// p. The paths of its settings start with prefix. It returns a hash of the files' contents,
// or "" if the group has no certificate.
func (s *Settings) planClientCert(o Options, prefix string, g GroupSettings, p *Group) (sum string, err error) {
	switch {
	case g.ClientCert == "" && g.ClientKey == "":
		return "", nil
	case g.ClientKey == "":
		return "", s.invalidf(prefix+"client-cert", "the private key is missing: add client-key, which may name the same file")
	case g.ClientCert == "":
		return "", s.invalidf(prefix+"client-key", "the certificate is missing: add client-cert, which may name the same file")
	}
	cert, err := o.Read(g.ClientCert)
	if err != nil {
		return "", s.At(prefix+"client-cert", fmt.Errorf("read the client certificate: %w", err))
	}
	if findPEM(cert, isCertificate) == nil {
		return "", s.At(prefix+"client-cert", fmt.Errorf("read the client certificate: %s contains no PEM certificate: add one, or name another file", g.ClientCert))
	}
	key, err := o.Read(g.ClientKey)
	if err == nil {
		err = checkKey(key, g.ClientKey)
	}
	if err != nil {
		return "", s.At(prefix+"client-key", fmt.Errorf("read the client key: %w", err))
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return "", s.At(prefix+"client-key", fmt.Errorf("use the key in %s with the certificate in %s: %w: name the key that belongs to the certificate, and put that first in its file", g.ClientKey, g.ClientCert, err))
	}
	p.Config.ClientCert = &pair
	if st, err := os.Stat(g.ClientKey); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o004 != 0 {
		p.warnings = append(p.warnings, fmt.Sprintf("client-key: every user can read %s: restrict it with chmod 600", g.ClientKey))
	}
	return fmt.Sprintf("%x %x", sha256.Sum256(cert), sha256.Sum256(key)), nil
}

// checkKey returns an error if text has no private key that can be used. file is its name.
func checkKey(text []byte, file string) error {
	block := findPEM(text, isKey)
	switch {
	case block == nil:
		return fmt.Errorf("%s contains no PEM private key: add it, or name another file", file)
	case strings.HasPrefix(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != "":
		return errors.New("it is encrypted, and Sotto has no password: decrypt it with 'openssl pkey', and protect the file by its permissions")
	}
	return nil
}

// findPEM returns the first PEM block of text whose type is wanted, or nil.
func findPEM(text []byte, wanted func(typ string) bool) *pem.Block {
	for {
		block, rest := pem.Decode(text)
		if block == nil || wanted(block.Type) {
			return block
		}
		text = rest
	}
}

func isCertificate(typ string) bool { return typ == "CERTIFICATE" }

func isKey(typ string) bool { return strings.HasSuffix(typ, "PRIVATE KEY") }
