// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"log/slog"
	"path/filepath"
)

// QueryLogStderr is the value of the setting query-log for the standard error stream.
const QueryLogStderr = "stderr"

// Messages of the setting dnstap-messages.
const (
	DnstapClient    = "client"
	DnstapForwarder = "forwarder"
)

// QueryLog describes the query log.
type QueryLog struct {
	File      string // "": there is none; or [QueryLogStderr]
	Sample    int    // one query in so many is logged
	HashNames bool
}

// Values of the setting dnstap-tls: the protocol that messages over TLS are recorded with.
const (
	DnstapDOT = "dot"
	DnstapTCP = "tcp"
)

// Dnstap describes the recording of messages.
type Dnstap struct {
	File, Socket      string // "": none
	Identity          string // "": the host name at the start
	Client, Forwarder bool   // which messages
	TLSAsTCP          bool   // record those over TLS as TCP
}

// On reports whether anything is recorded.
func (d *Dnstap) On() bool { return d.File != "" || d.Socket != "" }

// planLogs reads the settings of the query log and of dnstap.
func (s *Settings) planLogs(p *Plan) error {
	p.QueryLog = QueryLog{File: s.QueryLog, Sample: s.QueryLogSample, HashNames: s.QueryLogHashNames}
	if s.QueryLogSample < 1 || s.QueryLogSample > maxLimit {
		return s.invalidf("query-log-sample", "it is %d: want 1 (every query) to %d", s.QueryLogSample, maxLimit)
	}
	p.Dnstap = Dnstap{File: s.DnstapFile, Socket: s.DnstapSocket, Identity: s.DnstapIdentity, TLSAsTCP: s.DnstapTLS == DnstapTCP}
	if s.DnstapTLS != DnstapDOT && s.DnstapTLS != DnstapTCP {
		return s.invalidf("dnstap-tls", "unknown protocol %q: want dot or tcp", s.DnstapTLS)
	}
	for _, f := range []struct{ key, path string }{{"query-log", s.QueryLog}, {"dnstap-file", s.DnstapFile}} {
		if f.path != "" && !filepath.IsAbs(f.path) && (f.key != "query-log" || f.path != QueryLogStderr) {
			return s.invalidf(f.key, "%q is not an absolute path: write it as /var/log/sotto/NAME", f.path)
		}
	}
	if p.QueryLog.File != "" && p.QueryLog.File == p.Dnstap.File {
		return s.invalidf("dnstap-file", "it is also the file of query-log: name another one")
	}
	if err := s.checkSocket("dnstap-socket", p.Dnstap.Socket); err != nil {
		return err
	}
	for i, name := range s.DnstapMessages {
		switch name {
		case DnstapClient:
			p.Dnstap.Client = true
		case DnstapForwarder:
			p.Dnstap.Forwarder = true
		default:
			return s.invalidf(fmt.Sprintf("dnstap-messages[%d]", i), "unknown kind of message %q: want client or forwarder", name)
		}
	}
	if p.Dnstap.On() && len(s.DnstapMessages) == 0 {
		return s.invalidf("dnstap-messages", "it is empty: want client, forwarder or both")
	}
	return nil
}

// warnLogs logs a combination that is probably not intended.
func (p *Plan) warnLogs(log *slog.Logger) {
	if p.QueryLog.File != "" && p.QueryLog.HashNames && p.Dnstap.On() {
		log.Warn("configuration: query-log-hash-names does not apply to dnstap, which records whole messages with their names")
	}
}
