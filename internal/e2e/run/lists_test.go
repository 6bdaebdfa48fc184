// SPDX-License-Identifier: Apache-2.0

package run

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

// listsHost is the host of the documented lists.
const listsHost = "lists.example"

// startLists serves lists at port 443 of the LAN. get returns the list at a path.
func (w world) startLists(get func(path string) string) {
	w.T.Helper()
	cert, err := w.CA.Issue(dnstest.CertOptions{Names: []string{listsHost}})
	if err != nil {
		w.T.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if text := get(r.URL.Path); text != "" {
			fmt.Fprint(out, text)
			return
		}
		http.NotFound(out, r)
	}))
	if err := srv.Listener.Close(); err != nil {
		w.T.Fatal(err)
	}
	err = w.LAN.Do(func() (err error) {
		srv.Listener, err = net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(netlab.LANAddr4), 443).String())
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	w.T.Cleanup(srv.Close)
}

// TestLists runs the documented lists under a whole-host seal that also redirects port 443, so
// only sockets of Sotto's own reach the server. After the start most privileges are dropped. No
// plain query leaves the host.
func TestLists(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	lists, sealed := w.Zone(netlab.LANAddr4, netlab.LANAddr6), w.Zone(e2e.Sealed4, e2e.Sealed6)
	w.Handler.Set(dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		if bytes.Contains(bytes.ToLower(r.Query), []byte("\x05lists\x07example\x00")) {
			return lists.Answer(r)
		}
		return sealed.Answer(r)
	}))
	var ads atomic.Pointer[string]
	none, v1, v2 := "", "||ads.example^\n||lists.example^\n", "||ads.example^\n||more.example^\n"
	ads.Store(&none)
	w.startLists(func(path string) string {
		return map[string]string{
			"/allow.txt": "||cdn.ads.example^\n", "/ads.txt": *ads.Load(), "/malware.hosts": "0.0.0.0 malware.example\n",
		}[path]
	})
	dir := t.TempDir()
	allowed, config := dir+"/allowed.txt", dir+"/sotto.toml"
	e2e.WriteFile(t, allowed, "own.ads.example\n")
	e2e.WriteFile(t, config, fmt.Sprintf("list-dir = %q\nports = [53, 443]\n", dir+"/state/lists")+
		e2e.DocumentedConfig(t, rulesDocument, "Lists from the network", "/etc/sotto/allowed.txt", allowed))
	g := w.Cgroup("program")
	// Sotto is in the seal: its own connections must not be redirected.
	p := w.StartIn(g, "msg=sealed", append(w.RunArgs(g), "--config", config)...)
	check := func(name, want string) {
		t.Helper()
		if out := w.Dig(w.Host, g, "@8.8.8.8", name); !strings.Contains(out, want) {
			t.Errorf("%s: no %q in\n%s", name, want, out)
		}
	}
	const null = "60\tIN\tA\t0.0.0.0"
	if out, _, status := w.Sotto("lists", "update"); status != e2e.ExitFailure || !strings.Contains(out, "404 Not Found") {
		t.Errorf("without a list: status %d\n%s", status, out)
	}
	check("malware.example", null)
	check("www.ads.example", e2e.Sealed4)
	for _, v := range []struct {
		list *string
		more string
	}{{&v1, e2e.Sealed4}, {&v2, null}} {
		ads.Store(v.list)
		if out, errs, status := w.Sotto("lists", "update"); status != 0 {
			t.Fatalf("status %d\n%s%s", status, out, errs)
		}
		check("www.ads.example", null)
		check("www.more.example", v.more)
		check("cdn.ads.example", e2e.Sealed4)
		check("own.ads.example", e2e.Sealed4)
		check("malware.example", null)
	}
	if out, _, _ := w.Sotto("explain", "www.ads.example"); !strings.Contains(out, "https://lists.example/ads.txt") || !strings.Contains(out, "ads.example\n") {
		t.Errorf("explain:\n%s", out)
	}
	if files, err := os.ReadDir(dir + "/state/lists"); err != nil || len(files) != 3 {
		t.Errorf("%v, %v", files, err)
	}
	w.Stop(p)
}
