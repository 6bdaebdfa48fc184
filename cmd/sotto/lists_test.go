// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/internal/dnstest"
	"sotto/internal/durations"
	"sotto/internal/e2e"
	"sotto/internal/status"
)

// listSite is an HTTPS server with lists. Its host lists.example has the address that the test
// server for DNS over TLS gives every name.
type listSite struct {
	base string // URL

	mu    sync.Mutex
	lists map[string]string // by path
	etag  int
	sent  int // lists that were transferred
}

func startListSite(t *testing.T, ca *dnstest.CA) *listSite {
	t.Helper()
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{"lists.example"}})
	if err != nil {
		t.Fatal(err)
	}
	l := &listSite{lists: map[string]string{}}
	srv := httptest.NewUnstartedServer(l)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	l.base = fmt.Sprintf("https://lists.example:%d", srv.Listener.Addr().(*net.TCPAddr).Port)
	return l
}

func (l *listSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text, ok := l.lists[r.URL.Path]
	tag := fmt.Sprintf(`"%d"`, l.etag)
	switch {
	case !ok:
		http.NotFound(w, r)
	case r.Header.Get("If-None-Match") == tag:
		w.WriteHeader(http.StatusNotModified)
	default:
		l.sent++
		w.Header().Set("ETag", tag)
		fmt.Fprint(w, text)
	}
}

// set replaces the list at a path, and returns how often lists were transferred before.
func (l *listSite) set(path, text string) (sent int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lists[path] = text
	l.etag++
	return l.sent
}

// listConfig returns the start of a configuration with the list directory dir and an upstream
// that resolves lists.example.
func listConfig(t *testing.T, ca *dnstest.CA) (text string) {
	t.Helper()
	dir := t.TempDir()
	caFile := filepath.Join(dir, "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	up := startServer(t, ca, "127.0.0.1")
	return fmt.Sprintf("ca-file = %q\nupstream = [%q]\nlist-dir = %q\n", caFile, up.spec, filepath.Join(dir, "lists"))
}

// TestLists: the life of an allow-list and a blocklist, from a first start without them to a
// restart without a network.
func TestLists(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	site := startListSite(t, ca)
	file := filepath.Join(t.TempDir(), "names")
	e2e.WriteFile(t, file, "||file.example^\n")
	text := listConfig(t, ca) + fmt.Sprintf("[[rule]]\nlists = %q\nuse = \"default\"\n[[rule]]\nname = \"always.example\"\nnames-file = %q\nlists = [%q, %q]\nuse = \"nxdomain\"\n",
		site.base+"/allow", file, site.base+"/hosts", site.base+"/ads")
	s, stop := startServing(t, text)
	check := func(s *serving, names map[string]string) {
		t.Helper()
		for name, want := range names {
			if got, err := s.ask("udp", name); err != nil || got != want {
				t.Errorf("%s: %q, %v: want %s", name, got, err, want)
			}
		}
	}
	const pass, blocked = "127.0.0.1", "NXDOMAIN"
	check(s, map[string]string{"always.example": blocked, "a.ads.example": pass, "cdn.ads.example": pass, "host.example": pass, "lists.example": pass})
	out, errs, code := s.sotto("lists", "update")
	if code != exitFailure || !strings.Contains(errs, "3 of 3 lists could not be fetched") || !strings.Contains(out, "never fetched") || !strings.Contains(out, "404 Not Found") {
		t.Errorf("without lists: status %d\n%s%s", code, out, errs)
	}

	site.set("/allow", "cdn.ads.example\n")
	site.set("/hosts", "127.0.0.1 localhost\n0.0.0.0 host.example\n")
	site.set("/ads", "[Adblock Plus]\n||ads.example^\n||lists.example^\nexample.com##.x\n")
	var all []status.List
	out, errs, code = s.sotto("lists", "update", "--json")
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 || len(all) != 3 || all[2].Names != 2 || all[2].Skipped != 1 || all[2].URL != site.base+"/ads" {
		t.Errorf("status %d, %v: %+v\n%s", code, err, all, errs)
	}
	// The list blocks its own host, which does not prevent its update.
	inForce := map[string]string{
		"always.example": blocked, "www.file.example": blocked, "a.ads.example": blocked, "cdn.ads.example": pass, "x.cdn.ads.example": pass,
		"host.example": blocked, "sub.host.example": pass, "lists.example": blocked,
	}
	check(s, inForce)
	for _, tc := range []struct{ name, want string }{
		{"x.ads.example", "Rule 2\nList " + site.base + "/ads\nEntry ads.example\nResult answered: the name does not exist\n"},
		{"host.example", "Rule 2\nList " + site.base + "/hosts\nEntry =host.example\nResult answered: the name does not exist\n"},
		{"cdn.ads.example", "Rule 1\nList " + site.base + "/allow\nEntry cdn.ads.example\nResult answered from .*"},
		{"www.file.example", "Rule 2\nList " + file + "\nEntry file.example\nResult answered: the name does not exist\n"},
		{"always.example", "Rule 2\nResult answered: the name does not exist\n"},
	} {
		s.want("Query "+tc.name+". A\n"+tc.want, "explain", tc.name)
	}

	// An update that fails, and one with a change. The edited files are not read.
	s.configure("cache-mib = [")
	e2e.WriteFile(t, file, "a..b\n")
	sent := site.set("/ads", "<html>\n<body>Sorry</body>")
	if _, errs, code := s.sotto("lists", "update"); code != exitFailure || !strings.Contains(errs, "1 of 3 lists") {
		t.Errorf("a web page: status %d, %s", code, errs)
	}
	check(s, inForce)
	if _, errs, code := s.sotto("lists", "update"); code != exitFailure || strings.Count(s.log(), "web page") != 1 {
		t.Errorf("a web page again: status %d, %s\n%s", code, errs, s.log())
	}
	site.set("/ads", "||ads.example^\n||more.example^\n")
	s.want(".*Names 2 \\(0 other lines skipped\\)\nState changed 0s ago, checked 0s ago\n.*", "lists", "update")
	check(s, map[string]string{"www.more.example": blocked, "host.example": blocked, "file.example": blocked})
	if n := site.set("/none", ""); n < sent+3 {
		t.Errorf("%d transfers, at least %d expected", n, sent+3)
	}
	stop()

	e2e.WriteFile(t, file, "||file.example^\n")

	// A start without a network: the stored lists are in force.
	offline := strings.Replace(text, "upstream = [", "upstream = [\"127.0.0.1:1\"] #", 1)
	s, stop = startServing(t, offline)
	defer stop()
	check(s, map[string]string{"a.ads.example": blocked, "www.more.example": blocked, "host.example": blocked, "cdn.ads.example": "SERVFAIL"})
	s.want(".*changed .* ago, checked .* ago.*", "lists")
}

// TestExplainWithoutFile: a file that was removed since does not prevent an explanation.
func TestExplainWithoutFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "names")
	e2e.WriteFile(t, file, "0.0.0.0 a.example\n")
	s, _ := startServing(t, fmt.Sprintf("[[rule]]\nnames-file = %q\nuse = \"nodata\"\n", file))
	s.want("Query a.example. A\nRule 1\nList "+file+"\nEntry =a.example\nResult .*", "explain", "a.example")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.want("Query a.example. A\nRule 1\nList unknown: .*no such file.*\nResult .*", "explain", "a.example")
}

// millionNames is the length of the list under load; with the race detector it would take minutes.
func millionNames() int {
	if e2e.RaceDetector {
		return 50_000
	}
	return 1_000_000
}

// writeList returns a list of n names below even.example or odd.example, by the version.
func writeList(n, version int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "||n%d.%s.example^\n", i, parity(version))
	}
	return b.String()
}

func parity(version int) string { return []string{"even", "odd"}[version%2] }

// TestListsUnderLoad replaces a million names under load, those of a list and those of a file.
// Every version blocks other names. No query is lost, each answer is that of one version as a
// whole, and none is that of an older version than an earlier answer. It logs how long queries took
// during updates, and for as long a time between them.
func TestListsUnderLoad(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	site := startListSite(t, ca)
	file := filepath.Join(t.TempDir(), "names")
	for _, tc := range []struct {
		name      string
		condition string
		set       func(text string)
		update    []string
	}{
		{"lists", fmt.Sprintf("lists = %q\n", site.base+"/list"), func(text string) { site.set("/list", text) }, []string{"lists", "update"}},
		{"file", fmt.Sprintf("names-file = %q\n", file), func(text string) { e2e.WriteFile(t, file, text) }, []string{"reload"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := millionNames()
			tc.set(writeList(n, 0))
			s, _ := startServing(t, listConfig(t, ca)+"[[rule]]\n"+tc.condition+"use = \"nxdomain\"\n[[rule]]\naddress = \"192.0.2.1\"\n")
			update := func() time.Duration {
				started := time.Now()
				if out, errs, code := s.sotto(tc.update...); code != 0 {
					t.Errorf("status %d\n%s%s", code, out, errs)
				}
				return time.Since(started)
			}
			update()
			l := startVersionLoad(t, s, n)
			var took time.Duration
			const versions = 3
			for v := 1; v <= versions && !t.Failed(); v++ {
				tc.set(writeList(n, v))
				l.sent.Store(int64(v))
				l.updating.Store(1)
				last := update()
				l.updating.Store(0)
				took += last
				l.newest.Store(int64(v))
				quota := l.asked.Load() + 200
				for end := time.Now().Add(last); time.Now().Before(end) || l.asked.Load() < quota && !t.Failed(); time.Sleep(time.Millisecond) {
				}
			}
			l.stop()
			for i, when := range []string{"between", "during"} {
				var c durations.Counts
				l.times[i].AddTo(&c)
				t.Logf("%s updates: %d queries, half in %s, 99 %% in %s, the slowest in %s", when, c.Total(),
					c.Quantile(0.5).Round(10*time.Microsecond), c.Quantile(0.99).Round(10*time.Microsecond), time.Duration(l.slowest[i].Load()).Round(10*time.Microsecond))
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			t.Logf("%d queries, %d updates of %d names; %s for one; heap %d MiB, from the system %d MiB, of which %d MiB are released",
				l.asked.Load(), versions, n, (took / versions).Round(time.Millisecond), m.HeapAlloc>>20, m.Sys>>20, m.HeapReleased>>20)
		})
	}
}

// versionLoad queries names of lists that writeList has made.
type versionLoad struct {
	asked    atomic.Int64
	updating atomic.Int32 // 1 during an update
	// By whether an update was in progress when a query was sent or answered.
	times   [2]durations.Histogram
	slowest [2]atomic.Int64 // in ns
	newest  atomic.Int64    // version that an answer has shown, or that is in force
	sent    atomic.Int64    // version that may be in force
	stop    func()
}

func startVersionLoad(t *testing.T, s *serving, n int) *versionLoad {
	l := &versionLoad{}
	end := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
					l.ask(t, s, n)
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(end); clients.Wait() })
	t.Cleanup(l.stop)
	return l
}

// ask sends one query, and concludes from the answer which version it is of: the newest one that
// was known before the query, or the next.
func (l *versionLoad) ask(t *testing.T, s *serving, n int) {
	of := rand.IntN(2) // the versions that block the name
	name := fmt.Sprintf("www.n%d.%s.example", rand.IntN(n), parity(of))
	version, updating, started := l.newest.Load(), l.updating.Load(), time.Now()
	got, err := s.ask("udp", name)
	l.asked.Add(1)
	took := time.Since(started)
	when := max(updating, l.updating.Load())
	l.times[when].Add(took)
	raise(&l.slowest[when], int64(took))
	if err != nil || got != "NXDOMAIN" && got != "192.0.2.1" {
		t.Errorf("%s: %q, %v", name, got, err)
		return
	}
	if (got == "NXDOMAIN") != (version%2 == int64(of)) {
		version++
	}
	if latest := l.sent.Load(); version > latest {
		t.Errorf("%s: %s: the answer of version %d when %d is the latest", name, got, version, latest)
	}
	raise(&l.newest, version)
}

// raise sets v to at least n.
func raise(v *atomic.Int64, n int64) {
	for old := v.Load(); n > old && !v.CompareAndSwap(old, n); old = v.Load() {
	}
}
