// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sotto/internal/dnstest"
)

const host = "lists.example"

// site is an HTTPS server with a certificate for host, and a client that resolves host to it.
type site struct {
	t     testing.TB
	store Store
	serve atomic.Pointer[http.HandlerFunc]
	url   string
	calls atomic.Int64 // of the server

	asked   atomic.Pointer[string] // the last host that was resolved
	sockets atomic.Int64           // for which control was called
	fetcher Fetcher
}

func newSite(t testing.TB) *site {
	t.Helper()
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, store: Store{filepath.Join(t.TempDir(), "state", "lists")}}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		(*s.serve.Load())(w, r)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().(*net.TCPAddr).AddrPort()
	s.url = fmt.Sprintf("https://%s:%d/list.txt", host, addr.Port())
	lookup := func(_ context.Context, name string) ([]netip.Addr, error) {
		s.asked.Store(&name)
		if name != host {
			return nil, errors.New("no such name")
		}
		// Nothing listens at the first address.
		return []netip.Addr{netip.MustParseAddr("127.0.0.3"), addr.Addr()}, nil
	}
	control := func(string, string, syscall.RawConn) error {
		s.sockets.Add(1)
		return nil
	}
	s.fetcher = Fetcher{Store: s.store, Client: NewClient(lookup, control, ca.Pool()), limit: 1 << 20}
	return s
}

// fetch fetches the list once from a server that answers with f.
func (s *site) fetch(f http.HandlerFunc) (bool, error) {
	s.t.Helper()
	s.serve.Store(&f)
	old, err := s.store.Info(s.url)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	return s.fetcher.Fetch(s.t.Context(), s.url, old)
}

// want checks the stored names, and that no temporary file is left.
func (s *site) want(names ...string) {
	s.t.Helper()
	got, info, err := s.store.Names(s.url)
	if err != nil || !slices.Equal(got, names) || info.Names != len(names) {
		s.t.Errorf("stored: %q, %+v, %v: want %q", got, info, err, names)
	}
	if files, err := os.ReadDir(s.store.Dir); err != nil || len(files) != 1 {
		s.t.Errorf("files: %v, %v", files, err)
	}
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, s)
	}
}

// tag returns a handler that sends a list with an ETag, and counts the requests for which it
// confirms the list instead.
func tag(list string, confirmed *int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		if r.Header.Get("If-None-Match") == `"v1"` {
			*confirmed++
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, list)
	}
}

// TestFetch: a list is fetched, confirmed by its ETag or date, and replaced when it changes.
func TestFetch(t *testing.T) {
	s := newSite(t)
	if _, _, err := s.store.Names(s.url); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	const list = "! Title: x\n||ads.example^\n0.0.0.0 a.example localhost\nb.example\n@@||ok.example^\ncom\n.\n"
	names := []string{"ads.example", "=a.example", "b.example"}
	confirmed := 0
	tagged := tag(list, &confirmed)
	if changed, err := s.fetch(tagged); !changed || err != nil {
		t.Fatal(changed, err)
	}
	s.want(names...)
	info, err := s.store.Info(s.url)
	if err != nil || info.Skipped != 3 || info.URL != s.url || info.ETag != `"v1"` || time.Since(info.Checked) > time.Minute {
		t.Errorf("%+v, %v", info, err)
	}
	if *s.asked.Load() != host || s.sockets.Load() != 2 {
		t.Errorf("resolved %s, %d sockets", *s.asked.Load(), s.sockets.Load())
	}

	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.store.Path(s.url), past, past); err != nil {
		t.Fatal(err)
	}
	if changed, err := s.fetch(tagged); changed || err != nil || confirmed != 1 {
		t.Error("confirmed by ETag:", changed, err, confirmed)
	}
	if now, err := s.store.Info(s.url); err != nil || !now.Checked.After(past.Add(time.Minute)) || !now.Fetched.Equal(info.Fetched) {
		t.Errorf("after a confirmation: %+v, %v", now, err)
	}
	// The same names in another response.
	if changed, err := s.fetch(text(list + "# more\n")); changed || err != nil {
		t.Error("the same names:", changed, err)
	}
	if now, err := s.store.Info(s.url); err != nil || !now.Fetched.Equal(info.Fetched) || now.ETag != "" {
		t.Errorf("after the same names: %+v, %v", now, err)
	}
	dated := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		if r.Header.Get("If-Modified-Since") != "" {
			confirmed++
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprint(z, "new.example")
		_ = z.Close()
	}
	for _, want := range []bool{true, false} {
		if changed, err := s.fetch(dated); changed != want || err != nil {
			t.Error("compressed, with a date:", changed, err)
		}
		s.want("new.example")
	}
	if confirmed != 2 {
		t.Errorf("%d confirmations", confirmed)
	}
	st, err := os.Stat(s.store.Path(s.url))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// TestRedirect: redirections are followed to other hosts, but only over TLS.
func TestRedirect(t *testing.T) {
	s := newSite(t)
	to := func(target string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/there" {
				fmt.Fprint(w, "a.example\n")
				return
			}
			http.Redirect(w, r, target, http.StatusFound)
		}
	}
	for target, want := range map[string]string{
		"http://" + host + "/there": "does not start with https://",
		"ftp://" + host + "/there":  "does not start with https://",
		"https://other.example/":    "resolve other.example: no such name",
		s.url:                       "more than 5 redirections",
	} {
		if _, err := s.fetch(to(target)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: want %s", target, err, want)
		}
	}
	if changed, err := s.fetch(to("/there")); !changed || err != nil {
		t.Error(changed, err)
	}
	s.want("a.example")
}

// TestBroken: whatever is not the list leaves the stored one as it is.
func TestBroken(t *testing.T) {
	s := newSite(t)
	var long []string
	for i := range 100 {
		long = append(long, fmt.Sprintf("n%d.example", i))
	}
	broken := map[string]http.HandlerFunc{
		"it has no name":                       text("# nothing\n"),
		"the server sent a web page":           text("\ufeff\n <!doctype html>\n<p>\nblocked.example\n"),
		"100 names and 101 other lines":        text(strings.Join(long, "\n") + strings.Repeat("\nexample.com##.ad", 101)),
		"the transfer ended early":             cutTransfer(strings.Join(long, "\n")),
		"it is longer than 65536 bytes":        text("a.example\n" + strings.Repeat("x", 1<<17)),
		"the server answered 404 Not Found":    http.NotFound,
		"the server answered 304 Not Modified": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) },
		"web page": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, strings.Join(long, "\n"))
		},
		"it is longer than 1 MiB": func(w http.ResponseWriter, _ *http.Request) { flood(w) },
	}
	check := func() {
		t.Helper()
		for want, f := range broken {
			if changed, err := s.fetch(f); changed || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, %v: want %s", changed, err, want)
			}
		}
	}
	check()
	if files, _ := os.ReadDir(s.store.Dir); len(files) != 0 {
		t.Errorf("without a list: %v", files)
	}
	if _, err := s.fetch(text(strings.Join(long, "\n"))); err != nil {
		t.Fatal(err)
	}
	delete(broken, "the server answered 304 Not Modified") // now it confirms the list
	broken["it has 9 names, and had 100: if that is right, remove "+s.store.Path(s.url)] = text(strings.Join(long[:9], "\n"))
	check()
	s.want(long...)
	if _, err := s.fetch(text(strings.Join(long[:10], "\n"))); err != nil {
		t.Error(err)
	}
	s.want(long[:10]...)
}

// cutTransfer returns a handler that closes the connection within the list.
func cutTransfer(list string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(list)+1000))
		fmt.Fprint(w, list)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// TestEndsWithConn: a response that has no length is complete if TLS is closed at its end (RFC 9112
// §9.8), or if it is compressed and complete.
func TestEndsWithConn(t *testing.T) {
	s := newSite(t)
	const list = "a.example\nb.example\n"
	if _, err := s.fetch(endConn("", "old.example\n", true)); err != nil {
		t.Fatal(err)
	}
	s.want("old.example")
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := io.WriteString(w, list); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]http.HandlerFunc{
		"plain":      endConn("", list, false),
		"compressed": endConn("Content-Encoding: gzip\r\n", z.String()[:z.Len()-1], false),
	} {
		if changed, err := s.fetch(f); changed || !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "the transfer ended early") {
			t.Errorf("%s: %v, %v", name, changed, err)
		}
		s.want("old.example")
	}
	if changed, err := s.fetch(endConn("Content-Encoding: gzip\r\n", z.String(), false)); !changed || err != nil {
		t.Error("compressed and complete:", changed, err)
	}
	s.want("a.example", "b.example")
}

// endConn returns a handler that sends a response without a length and ends the connection. closeTLS
// sends close_notify before that.
func endConn(fields, body string, closeTLS bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		overTLS := c.(*tls.Conn)
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n%s\r\n%s", fields, body)
		if closeTLS {
			_ = overTLS.CloseWrite()
		}
		below := overTLS.NetConn()
		_ = below.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, below) // until the client has closed it, so that no reset is sent
	}
}

func flood(w http.ResponseWriter) {
	chunk := []byte(strings.Repeat("#"+strings.Repeat(" ", 10000)+"\n", 10))
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// TestTrust: a server without a valid certificate, or with one for another name, is not used.
func TestTrust(t *testing.T) {
	s, other := newSite(t), newSite(t)
	s.fetcher.Client = other.fetcher.Client // resolves to the other server, with other authorities
	if _, err := s.fetch(text("a.example")); err == nil {
		t.Error("fetched from another server")
	}
	f := text("a.example")
	other.serve.Store(&f)
	url := strings.Replace(other.url, host, "127.0.0.1", 1)
	if _, err := other.fetcher.Fetch(t.Context(), url, Info{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
	if n := other.calls.Load(); n != 0 {
		t.Errorf("%d requests", n)
	}
}
