// SPDX-License-Identifier: Apache-2.0

package doq

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"sotto/forwarder/tap"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

func newClient(t *testing.T, s *servertest.QUIC, change func(*transport.Config)) *servertest.Client {
	t.Helper()
	cfg := transport.Config{Server: s.Server()}
	if change != nil {
		change(&cfg)
	}
	return servertest.NewClient(t, cfg, func(cfg transport.Config) (transport.Transport, error) { return New(cfg), nil })
}

// isFor reports whether a query asks for a name that starts with that label.
func isFor(query []byte, label string) bool { return strings.HasPrefix(string(query[13:]), label) }

// replyTo returns the frame of an empty reply to a query.
func replyTo(query []byte) []byte {
	reply := []byte(string(query))
	reply[2] |= 0x80
	return dnstest.Frame(reply)
}

// TestQuery checks what a server and a tap see, and that connections are reused and resumed.
func TestQuery(t *testing.T) {
	s := servertest.ServeQUIC(t, servertest.Zone(t), func(s *servertest.QUIC) {
		s.Intercept = func(c *quic.Conn, _ *quic.Stream, query []byte) bool {
			if wire.ID(query) != 0 {
				t.Errorf("the query has ID %d", wire.ID(query))
			}
			if len(query)%128 != 0 {
				t.Errorf("the query has %d bytes, want padding", len(query))
			}
			if strings.Contains(string(query), "\x00\x0b\x00\x00") {
				t.Errorf("the query has the option edns-tcp-keepalive: %x", query)
			}
			if p := c.ConnectionState().TLS.NegotiatedProtocol; p != "doq" {
				t.Errorf("the protocol is %q", p)
			}
			return false
		}
	})
	var mu sync.Mutex
	var seen []tap.Message
	cl := newClient(t, s, func(cfg *transport.Config) {
		cfg.Tap = func(m tap.Message) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, m)
		}
	})
	for range 3 {
		servertest.MustAsk(t, cl, "www.example.")
	}
	cl.T.Reset()
	servertest.MustAsk(t, cl, "www.example.")
	st := cl.T.Stats()
	if st.Dials != 2 || st.Resumed != 1 || st.Conns != 1 || st.InFlight != 0 || st.Protocol != "TLS 1.3" || st.CertExpiry.IsZero() {
		t.Errorf("stats %+v", st)
	}
	if s.Conns.Load() != 2 || s.Resumed.Load() != 1 || s.Queries.Load() != 4 || cl.Replies.Load() != 4 {
		t.Errorf("the server saw %d connections, %d resumed, %d queries; %d replies", s.Conns.Load(), s.Resumed.Load(), s.Queries.Load(), cl.Replies.Load())
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 8 || seen[0].Proto != tap.QUIC || seen[0].Responder != s.Addr || seen[0].Querier.Addr() != servertest.Loopback {
		t.Errorf("the tap saw %d messages, the first %+v", len(seen), seen[0])
	}
	if err := <-s.Closed; !isClose(err, noError) {
		t.Errorf("the connection was closed with %v, want DOQ_NO_ERROR", err)
	}
}

// isClose reports whether the client closed a connection with that error code.
func isClose(err error, code quic.ApplicationErrorCode) bool {
	var app *quic.ApplicationError
	return errors.As(err, &app) && app.Remote && app.ErrorCode == code
}

// TestLarge: replies of the maximum size, and ones that arrive in pieces.
func TestLarge(t *testing.T) {
	s := servertest.ServeQUIC(t, servertest.Zone(t), func(s *servertest.QUIC) {
		s.Intercept = func(_ *quic.Conn, stream *quic.Stream, query []byte) bool {
			frame := replyTo(query)
			if isFor(query, "max") {
				frame = dnstest.Frame(append(frame[2:], make([]byte, wire.MaxMessage-len(frame)+2)...))
			}
			for len(frame) > 0 {
				n := min(len(frame), 7)
				if isFor(query, "max") {
					n = min(len(frame), 9000)
				}
				_, _ = stream.Write(frame[:n])
				frame = frame[n:]
				time.Sleep(time.Millisecond)
			}
			_ = stream.Close()
			return true
		}
	})
	cl := newClient(t, s, nil)
	if reply := servertest.MustAsk(t, cl, "max.example."); len(reply) != wire.MaxMessage {
		t.Errorf("%d bytes", len(reply))
	}
	servertest.MustAsk(t, cl, "pieces.example.")
}

// TestStreamErrors: what ends one stream does not end the connection, nor harm other queries.
func TestStreamErrors(t *testing.T) {
	hold := make(chan struct{})
	z := servertest.Zone(t)
	var once atomic.Bool
	s := servertest.ServeQUIC(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if isFor(r.Query, "held") {
			a.Wait = hold
		}
		return a
	}), func(s *servertest.QUIC) {
		s.Intercept = func(_ *quic.Conn, stream *quic.Stream, query []byte) bool {
			switch {
			case isFor(query, "reset"), isFor(query, "once") && once.CompareAndSwap(false, true):
				stream.CancelWrite(1)
			case isFor(query, "stop"):
				stream.CancelRead(1)
				stream.CancelWrite(1)
			case isFor(query, "empty"):
				_ = stream.Close()
			case isFor(query, "other"):
				_, _ = stream.Write(append([]byte{}, servertest.Stray()...))
				_ = stream.Close()
			case isFor(query, "short"):
				_, _ = stream.Write(dnstest.Frame([]byte("short")))
				_ = stream.Close()
			case isFor(query, "bare"):
				_, _ = stream.Write(dnstest.Frame([]byte{0, 0, 0x80, byte(wire.RcodeNXDomain), 0, 0, 0, 0, 0, 0, 0, 0}))
				_ = stream.Close()
			default:
				return false
			}
			return true
		}
	})
	cl := newClient(t, s, nil)
	held := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, cl, "held.example.")
		held <- err
	}()
	servertest.Eventually(t, "it is in flight", func() bool { return s.Queries.Load() >= 1 })
	for name, want := range map[string]string{
		"reset": "the server reset the stream of the query (error 0x1 of DNS over QUIC)",
		"stop":  "the server reset the stream of the query",
		"empty": "it ended without a reply",
		"short": "data that is not a DNS message",
		"bare":  "not a reply to the query",
		"other": "the server's replies do not match the queries",
	} {
		if _, err := servertest.Ask(t, cl, name+".example."); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	servertest.MustAsk(t, cl, "once.example.")
	close(hold)
	if err := <-held; err != nil {
		t.Error(err)
	}
	if st := cl.T.Stats(); s.Conns.Load() != 1 || st.Conns != 1 || st.Resent != 4 || cl.DialFailures.Load() != 0 {
		t.Errorf("%d connections, stats %+v; want one, and four queries resent", s.Conns.Load(), st)
	}
}

// TestViolations: a fatal error of the server closes the connection with DOQ_PROTOCOL_ERROR
// (RFC 9250 §4.3.3). The query that it concerns fails, and others are sent again.
func TestViolations(t *testing.T) {
	for what, violate := range map[string]func(stream *quic.Stream, query []byte){
		"it sent the message ID 7": func(stream *quic.Stream, query []byte) {
			frame := replyTo(query)
			frame[3] = 7
			_, _ = stream.Write(frame)
			_ = stream.Close()
		},
		"it ended the stream after 20 bytes": func(stream *quic.Stream, query []byte) {
			_, _ = stream.Write(replyTo(query)[:20])
			_ = stream.Close()
		},
		"it ended the stream after 1 bytes": func(stream *quic.Stream, query []byte) {
			_, _ = stream.Write([]byte{0})
			_ = stream.Close()
		},
		"it sent more than one message": func(stream *quic.Stream, query []byte) {
			_, _ = stream.Write(append(replyTo(query), replyTo(query)...))
			_ = stream.Close()
		},
		"it sent the option edns-tcp-keepalive": func(stream *quic.Stream, query []byte) {
			end := wire.HeaderLen
			for query[end] != 0 {
				end += 1 + int(query[end])
			}
			end += 5 // root, type and class
			reply := replyTo(query)[2:]
			reply = append(reply[:end:end], 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 11, 0, 2, 0, 100)
			_, _ = stream.Write(dnstest.Frame(reply))
			_ = stream.Close()
		},
	} {
		t.Run(what, func(t *testing.T) {
			hold := make(chan struct{})
			var held atomic.Int32
			z := servertest.Zone(t)
			s := servertest.ServeQUIC(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
				a := z.Answer(r)
				if isFor(r.Query, "held") && held.Add(1) == 1 {
					a.Wait = hold
				}
				return a
			}), func(s *servertest.QUIC) {
				s.Intercept = func(_ *quic.Conn, stream *quic.Stream, query []byte) bool {
					if isFor(query, "violation") {
						violate(stream, query)
						return true
					}
					return false
				}
			})
			defer close(hold)
			cl := newClient(t, s, nil)
			servertest.MustAsk(t, cl, "www.example.") // the connection is proven
			done := make(chan error, 1)
			go func() {
				_, err := servertest.Ask(t, cl, "held.example.")
				done <- err
			}()
			servertest.Eventually(t, "it is in flight", func() bool { return held.Load() >= 1 })
			if _, err := servertest.Ask(t, cl, "violation-0.example."); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("error %v", err)
			}
			if err := <-done; err != nil {
				t.Errorf("the other query: %v", err)
			}
			if err := <-s.Closed; !isClose(err, protocolError) {
				t.Errorf("the connection was closed with %v, want DOQ_PROTOCOL_ERROR", err)
			}
			servertest.MustAsk(t, cl, "www.example.")
			if n := s.Conns.Load(); n != 2 {
				t.Errorf("%d connections, want 2", n)
			}
		})
	}
}

// TestLateEnd: a reply is used before the server ends the stream. What it sends after it is a
// violation.
func TestLateEnd(t *testing.T) {
	end := make(chan struct{})
	s := servertest.ServeQUIC(t, servertest.Zone(t), func(s *servertest.QUIC) {
		s.Intercept = func(_ *quic.Conn, stream *quic.Stream, query []byte) bool {
			_, _ = stream.Write(replyTo(query))
			<-end
			if isFor(query, "more") {
				_, _ = stream.Write(replyTo(query))
			}
			_ = stream.Close()
			return true
		}
	})
	cl := newClient(t, s, nil)
	servertest.MustAsk(t, cl, "www.example.")
	servertest.MustAsk(t, cl, "more.example.")
	close(end)
	if err := <-s.Closed; !isClose(err, protocolError) {
		t.Errorf("the connection was closed with %v, want DOQ_PROTOCOL_ERROR", err)
	}
}

// TestServerCloses: whatever the reason, queries in flight are sent again on another
// connection.
func TestServerCloses(t *testing.T) {
	for code := range quic.ApplicationErrorCode(7) {
		if code == excessiveLoad {
			continue
		}
		var closed atomic.Bool
		s := servertest.ServeQUIC(t, servertest.Zone(t), func(s *servertest.QUIC) {
			s.Intercept = func(c *quic.Conn, _ *quic.Stream, query []byte) bool {
				if isFor(query, "close") && closed.CompareAndSwap(false, true) {
					_ = c.CloseWithError(code, "")
					return true
				}
				return false
			}
		})
		cl := newClient(t, s, nil)
		servertest.MustAsk(t, cl, "www.example.")
		servertest.MustAsk(t, cl, "close.example.")
		if st := cl.T.Stats(); st.Resent != 1 || st.Lost != 1 || s.Conns.Load() != 2 {
			t.Errorf("code %d: stats %+v, %d connections", code, st, s.Conns.Load())
		}
	}
}

// TestExcessiveLoad: a server that reports excessive load gets no queries for a while, and
// the reason is reported.
func TestExcessiveLoad(t *testing.T) {
	for _, how := range []string{"stream", "connection"} {
		s := servertest.ServeQUIC(t, servertest.Zone(t), func(s *servertest.QUIC) {
			s.Intercept = func(c *quic.Conn, stream *quic.Stream, query []byte) bool {
				switch {
				case !isFor(query, "load"):
					return false
				case how == "stream":
					stream.CancelWrite(excessiveLoad)
				default:
					_ = c.CloseWithError(excessiveLoad, "")
				}
				return true
			}
		})
		cl := newClient(t, s, nil)
		for range 2 {
			if _, err := servertest.Ask(t, cl, "load.example."); err == nil || !strings.Contains(err.Error(), "the server is overloaded") {
				t.Errorf("%s: %v", how, err)
			}
		}
		if n := s.Queries.Load(); n != 1 {
			t.Errorf("%s: %d queries, want one", how, n)
		}
	}
}
