// SPDX-License-Identifier: Apache-2.0

package doh_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/doh"
	"sotto/forwarder/upstream/doh3"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// protocols are the versions of HTTP.
var protocols = map[transport.Protocol]func(transport.Config) (transport.Transport, error){
	transport.DoH:  func(cfg transport.Config) (transport.Transport, error) { return doh.New(cfg) },
	transport.DoH3: func(cfg transport.Config) (transport.Transport, error) { return doh3.New(cfg) },
}

// each runs a test for both versions of HTTP.
func each(t *testing.T, test func(t *testing.T, p transport.Protocol)) {
	for p := range protocols {
		t.Run(p.String(), func(t *testing.T) { test(t, p) })
	}
}

// newClient returns a client of that server, with a path.
func newClient(t *testing.T, s *servertest.Web, p transport.Protocol, path string) *servertest.Client {
	t.Helper()
	server := s.Server(p)
	server.Path = path
	return servertest.NewClient(t, transport.Config{Server: server}, protocols[p])
}

// TestRequest checks what a server sees of a client.
func TestRequest(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		for _, tc := range []struct{ path, method, query string }{
			{"", http.MethodPost, "/dns-query"},
			{"/dns-query", http.MethodPost, "/dns-query"},
			{"/q{?dns}", http.MethodGet, "/q"},
			{"/q?a=b{&dns}", http.MethodGet, "/q"},
		} {
			seen := make(chan *http.Request, 1)
			s := servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
				w.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
					q, err := servertest.ReadQuery(r)
					if err != nil || wire.ID(q) != 0 || len(q)%128 != 0 {
						t.Errorf("query of %d bytes with ID %d: %v", len(q), wire.ID(q), err)
					}
					r.Body = http.NoBody
					seen <- r.Clone(context.Background())
					w.WriteHeader(http.StatusNotFound)
					return true
				}
			})
			cl := newClient(t, s, p, tc.path)
			_, _ = servertest.Ask(t, cl, "www.example.") // it fails
			r := <-seen
			want := fmt.Sprintf("%s:%d", servertest.Name, s.Addr.Port())
			if r.Method != tc.method || r.URL.Path != tc.query || r.Host != want {
				t.Errorf("%s: %s %s of %s: want %s %s of %s", tc.path, r.Method, r.URL, r.Host, tc.method, tc.query, want)
			}
			var names []string
			for name := range r.Header {
				names = append(names, name)
			}
			slices.Sort(names)
			wantNames := []string{"Accept"}
			if tc.method == http.MethodPost {
				wantNames = []string{"Accept", "Content-Length", "Content-Type"}
			}
			if !slices.Equal(names, wantNames) {
				t.Errorf("%s: headers %v: want %v", tc.path, r.Header, wantNames)
			}
			if tc.path == "/q?a=b{&dns}" && r.URL.Query().Get("a") != "b" {
				t.Errorf("the query part of the path is missing: %s", r.URL)
			}
		}
	})
}

// TestMethods: both methods work, and connections are reused.
func TestMethods(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		for _, path := range []string{"", "/dns-query{?dns}"} {
			s := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
			cl := newClient(t, s, p, path)
			for range 3 {
				servertest.MustAsk(t, cl, "www.example.")
			}
			if st := cl.T.Stats(); st.Conns != 1 || st.Dials != 1 || st.InFlight != 0 || s.Conns.Load() != 1 || cl.Replies.Load() != 3 {
				t.Errorf("%q: stats %+v: want one connection and three replies", path, st)
			}
		}
	})
}

// TestResponses covers the responses that are not replies.
func TestResponses(t *testing.T) {
	const media = "application/dns-message"
	for _, tc := range []struct {
		what    string
		respond func(w http.ResponseWriter, query []byte)
		want    string
	}{
		{"not found", func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusNotFound) }, "HTTP status 404 Not Found to /dns-query"},
		{"bad gateway", func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusBadGateway) }, "HTTP status 502 Bad Gateway"},
		{"a page", func(w http.ResponseWriter, _ []byte) { fmt.Fprint(w, "<html>") }, `the server sent "text/html" instead of a DNS message`},
		{"nothing", func(w http.ResponseWriter, _ []byte) { w.Header().Set("Content-Type", media) }, "it has 0 bytes"},
		{"too long", func(w http.ResponseWriter, q []byte) {
			w.Header().Set("Content-Type", media)
			_, _ = w.Write(append(bytes.Clone(q), make([]byte, wire.MaxMessage)...))
		}, "it is longer than 65535 bytes"},
		{"a query", func(w http.ResponseWriter, q []byte) {
			w.Header().Set("Content-Type", media)
			_, _ = w.Write(q)
		}, "data that is not a DNS message"},
		{"another question", func(w http.ResponseWriter, q []byte) {
			q[2] |= 0x80
			q[13]++
			w.Header().Set("Content-Type", media)
			_, _ = w.Write(q)
		}, "the server's replies do not match the queries"},
		{"elsewhere", func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Location", "https://other.example/dns-query")
			w.WriteHeader(http.StatusPermanentRedirect)
		}, "the server redirects to another one, other.example: use that"},
		{"plain HTTP", func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Location", "http://"+servertest.Name+"/dns-query")
			w.WriteHeader(http.StatusFound)
		}, "the server redirects to another one"},
		{"in a loop", func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Location", "/dns-query")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, "more than 3 times"},
		{"a redirection without a location", func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusFound) }, "without a valid location"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			each(t, func(t *testing.T, p transport.Protocol) {
				var bad atomic.Bool
				s := servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
					w.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
						if bad.Load() {
							q, _ := servertest.ReadQuery(r)
							tc.respond(w, q)
						}
						return bad.Load()
					}
				})
				cl := newClient(t, s, p, "")
				bad.Store(true)
				_, err := servertest.Ask(t, cl, "www.example.")
				servertest.WantEDE(t, err, wire.EDENetworkError, tc.want)
				bad.Store(false)
				servertest.MustAsk(t, cl, "www.example.")
				if st := cl.T.Stats(); st.Dials != 1 || st.Lost != 0 {
					t.Errorf("stats %+v: the connection was not kept", st)
				}
			})
		})
	}
}

// TestRedirect: a permanent redirection within the origin applies to later queries.
func TestRedirect(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		for _, path := range []string{"/old", "/old{?dns}"} {
			s := servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
				w.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path == "/new" {
						return false
					}
					http.Redirect(w, r, "/new?"+r.URL.RawQuery, http.StatusPermanentRedirect)
					return true
				}
			})
			cl := newClient(t, s, p, path)
			servertest.MustAsk(t, cl, "www.example.")
			servertest.MustAsk(t, cl, "www2.example.")
			if n := s.Requests.Load(); n != 3 {
				t.Errorf("%s: %d requests for two queries and one redirection", path, n)
			}
		}
	})
}

// TestLifetime: Age and max-age limit the TTLs.
func TestLifetime(t *testing.T) {
	for _, tc := range []struct {
		age, control string
		want         uint32
	}{
		{"", "", 300},
		{"250", "", 50},
		{"250", "max-age=600", 50},
		{"400", "max-age=600", 0},
		{"", "private, MAX-AGE=100", 100},
		{"30", `max-age="100"`, 70},
		{"", "max-age=0", 0},
		{"-1", "max-age=x", 300},
		{"99999999999999999999999", "", 0},
		{"", "no-store", 300},
	} {
		s := servertest.ServeWeb(t, transport.DoH, servertest.Zone(t), func(w *servertest.Web) {
			w.Intercept = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Age", tc.age)
				w.Header().Set("Cache-Control", tc.control)
				return false
			}
		})
		reply, err := wire.ParseReply(servertest.MustAsk(t, newClient(t, s, transport.DoH, ""), "www.example."))
		if err != nil || reply.TTL != tc.want {
			t.Errorf("Age %q, Cache-Control %q: TTL %d, %v: want %d", tc.age, tc.control, reply.TTL, err, tc.want)
		}
	}
}

// TestPause: a server that is overloaded gets no query for as long as it asks.
func TestPause(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			s := servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
				w.Intercept = func(w http.ResponseWriter, _ *http.Request) bool {
					w.Header().Set("Retry-After", "60")
					w.WriteHeader(status)
					return true
				}
			})
			cl := newClient(t, s, p, "")
			for range 3 {
				_, err := servertest.Ask(t, cl, "www.example.")
				servertest.WantEDE(t, err, wire.EDENetworkError, fmt.Sprint("HTTP status ", status))
			}
			if n := s.Requests.Load(); n != 1 {
				t.Errorf("%d: %d requests during the pause, want only the first", status, n)
			}
			cl.T.Reset()
			_, _ = servertest.Ask(t, cl, "www.example.")
			if n := s.Requests.Load(); n != 2 {
				t.Errorf("%d: %d requests, want one more after the network changed", status, n)
			}
		}
	})
}

// TestStreamError: a stream that is reset does not disturb the others, and its query is
// sent once more.
func TestStreamError(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		var resets atomic.Int64
		s := servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
			w.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
				q, _ := servertest.ReadQuery(r)
				if bytes.Contains(q, []byte("\x03bad")) {
					resets.Add(1)
					panic(http.ErrAbortHandler)
				}
				r.Method, r.URL.RawQuery = http.MethodGet, "dns="+encode(q)
				time.Sleep(20 * time.Millisecond)
				return false
			}
		})
		cl := newClient(t, s, p, "")
		servertest.MustAsk(t, cl, "www.example.")
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if i%4 == 0 {
					_, err := servertest.Ask(t, cl, "bad.example.")
					servertest.WantEDE(t, err, wire.EDENetworkError, "the server reset the stream of the query")
					return
				}
				if _, err := servertest.Ask(t, cl, fmt.Sprintf("good%d.example.", i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if st := cl.T.Stats(); st.Dials != 1 || st.Lost != 0 || resets.Load() != 10 {
			t.Errorf("stats %+v, %d resets: want one connection and two attempts for each of five queries", st, resets.Load())
		}
	})
}

// TestNoHTTP2: a server without HTTP/2 is refused, be it with or without ALPN.
func TestNoHTTP2(t *testing.T) {
	for _, protos := range [][]string{{"http/1.1"}, nil} {
		s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.NoALPN = true })
		server := transport.Server{Protocol: transport.DoH, Addr: s.Addr(), Name: servertest.Name}
		if protos != nil {
			l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{servertest.Issue(t, dnstest.CertOptions{})}, NextProtos: protos})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_ = c.(*tls.Conn).Handshake()
					c.Close()
				}
			}()
			server.Addr = servertest.AddrOf(l.Addr())
		}
		cl := servertest.NewClient(t, transport.Config{Server: server}, protocols[transport.DoH])
		_, err := servertest.Ask(t, cl, "www.example.")
		servertest.WantEDE(t, err, wire.EDENetworkError, "the server does not support HTTP/2, which DNS over HTTPS requires")
		if n := s.Stats().Queries(); n != 0 {
			t.Errorf("%d queries without HTTP/2", n)
		}
	}
}
