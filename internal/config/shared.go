// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sotto/forwarder/shared"
)

// SharedSettings describe the cache that several instances share.
type SharedSettings struct {
	SharedCache  string `toml:"shared-cache"`
	PasswordFile string `toml:"shared-cache-password-file"`
	SecretFile   string `toml:"shared-cache-secret-file"`
	SharedCAFile string `toml:"shared-cache-ca-file"`
	Timeout      string `toml:"shared-cache-timeout"`
	Prefix       string `toml:"shared-cache-prefix"`
	MaxAnswer    int    `toml:"shared-cache-max-answer"`
}

func defaultShared() SharedSettings {
	return SharedSettings{Timeout: shared.DefaultTimeout.String(), Prefix: "sotto:", MaxAnswer: shared.DefaultMaxAnswer}
}

// Shared is the server of the cache that several instances share, and what is stored there.
type Shared struct {
	Address            string // host and port
	Username, Password string
	Database           int
	TLS                *tls.Config // nil: no TLS
	CASum              string      // hash of the contents of shared-cache-ca-file; "" without it or without TLS
	Secret             []byte      // nil: values are not encrypted
	Timeout            time.Duration
	Prefix             string
	MaxAnswer          int // bytes
}

const (
	redisPort = "6379"

	// maxSharedTimeout is less than a client notices, and less than most misses take.
	maxSharedTimeout = 50 * time.Millisecond

	minMaxAnswer = 512
	maxMaxAnswer = 65535
	maxPrefix    = 64
	maxDatabase  = 1 << 16
)

// planShared reads the settings of the shared cache. It returns nil if there is none.
func (s *Settings) planShared(o Options) (*Shared, error) {
	p := &Shared{Prefix: s.Prefix, MaxAnswer: s.MaxAnswer}
	var err error
	if p.Timeout, err = s.duration("shared-cache-timeout", s.Timeout, time.Millisecond, maxSharedTimeout); err != nil {
		return nil, err
	}
	switch {
	case len(s.Prefix) > maxPrefix:
		return nil, s.invalidf("shared-cache-prefix", "it has %d bytes: want at most %d", len(s.Prefix), maxPrefix)
	case s.MaxAnswer < minMaxAnswer || s.MaxAnswer > maxMaxAnswer:
		return nil, s.invalidf("shared-cache-max-answer", "it is %d: want %d to %d", s.MaxAnswer, minMaxAnswer, maxMaxAnswer)
	case s.SharedCache == "":
		return nil, nil
	case s.CacheMiB == 0:
		return nil, s.invalidf("shared-cache", "it needs a cache in this process, too: set cache-mib to more than 0")
	}
	if p.Password, err = s.secretText(o, "shared-cache-password-file", s.PasswordFile); err != nil {
		return nil, err
	}
	secret, err := s.secretText(o, "shared-cache-secret-file", s.SecretFile)
	if err != nil {
		return nil, err
	}
	if s.SecretFile != "" {
		if p.Secret = []byte(secret); len(p.Secret) < shared.MinSecret {
			return nil, s.invalidf("shared-cache-secret-file", "the secret has %d bytes: want at least %d, for example the output of 'openssl rand -base64 32'", len(p.Secret), shared.MinSecret)
		}
	}
	return p, s.planSharedServer(o, p)
}

// planSharedServer reads where the shared cache is.
func (s *Settings) planSharedServer(o Options, p *Shared) error {
	u, err := url.Parse(s.SharedCache)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return s.invalidf("shared-cache", "%q is not an address: want redis://HOST:PORT or, with TLS, rediss://HOST:PORT", s.SharedCache)
	}
	if _, has := u.User.Password(); has {
		return s.invalidf("shared-cache", "it contains a password: move that to the file of shared-cache-password-file")
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = redisPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return s.invalidf("shared-cache", "%q is not the number of a port: want 1 to 65535", port)
	}
	p.Username, p.Address = u.User.Username(), net.JoinHostPort(host, port)
	if path := strings.Trim(u.Path, "/"); path != "" {
		if p.Database, err = strconv.Atoi(path); err != nil || p.Database < 0 || p.Database >= maxDatabase {
			return s.invalidf("shared-cache", "%q is not the number of a database: want redis://HOST:PORT/0", path)
		}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil && !o.Serve {
		return s.invalidf("shared-cache", "%q is not an IP address: want one under a seal, because resolving a name needs DNS", host)
	}
	if u.Scheme == "rediss" {
		_, pool, sum, err := certPools(o, s.SharedCAFile)
		if err != nil {
			return s.At("shared-cache-ca-file", err)
		}
		p.CASum = sum
		p.TLS = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
		if pool != nil {
			p.TLS.RootCAs = pool()
		}
		return nil
	}
	if p.Secret == nil && !addr.Unmap().IsLoopback() {
		return s.invalidf("shared-cache", "names and answers would cross the network in plain text: use rediss://, or encrypt them with shared-cache-secret-file")
	}
	return nil
}

// secretText returns the content of the file that the setting called key names, without white
// space at its end.
func (s *Settings) secretText(o Options, key, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := o.Read(file)
	if err != nil {
		return "", s.At(key, fmt.Errorf("read a secret: %w", err))
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return "", s.invalidf(key, "%s is empty: write the secret to it, or name another file", file)
	}
	return string(text), nil
}
