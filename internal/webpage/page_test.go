// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"sotto/forwarder"
	"sotto/internal/names"
	"sotto/internal/observe"
	"sotto/internal/status"
)

const longName = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2f6c1bd4_7d3e_4a55_9a53_0d1f4e0c5b7a.slice/cri-containerd-8f2d9c.scope"

// busy is a source with every figure, and its history.
func busy() (*fake, *History) {
	now := time.Now()
	f := &fake{status: status.Status{
		Version: "v1.2.3", Started: now.Add(-50 * time.Hour), PID: 4711, Ready: true, Rules: 12,
		Groups: []status.Group{
			{Name: "default", Policy: "failover", Servers: []status.Server{
				{Server: "9.9.9.9:853#dns.quad9.net", State: "up", Protocol: "TLS 1.3", UsualMillis: 11.4, P95Millis: 35, CertExpiry: now.Add(90 * 24 * time.Hour)},
				{Server: "[2620:fe::fe]:853#dns.quad9.net", State: "down", LastError: "no route to it from this machine", RetrySeconds: 12},
			}},
			{Name: "work", Policy: "hedged", Servers: []status.Server{{Server: "192.0.2.1:853#dns.example", State: "up"}}},
		},
		Cache: &status.Cache{Entries: 5310, Bytes: 3 << 20, MaxBytes: 64 << 20, Hits: 900, Misses: 100},
		Seal: &status.Seal{
			Cgroups: []string{"/sys/fs/cgroup"}, Prefix4: netip.MustParsePrefix("198.19.0.0/16"), Prefix6: netip.MustParsePrefix("fd73:6f74:746f::/64"),
			Guard: "drop", LocalResolvers: "keep", SlotsUsed: 37, SlotsTotal: 65536, Counters: map[string]uint64{"stopped_packet": 3, "connect": 9},
		},
		Queries:  status.Queries{Total: 1000, Rcode: map[string]uint64{"NOERROR": 990, "SERVFAIL": 10}, Source: map[string]uint64{"cache": 900, "upstream": 100}, UpstreamP99Micros: 87000},
		Messages: []observe.Message{{Time: now.Add(-time.Minute), Level: "WARN", Text: "upstream failed server=<b>[2620:fe::fe]:853</b> reason=" + strings.Repeat("x", 200)}},
	}}
	f.hub.Names = func(workload string) names.Name {
		if workload == longName {
			return names.Name{Kind: names.Pod, Name: "default/<b>web-0"}
		}
		return names.Name{}
	}
	h := NewHistory(f.source())
	at := now.Add(-maxSamples * interval)
	for n := range maxSamples {
		for i := range 40 + 30*(n%13) {
			f.query("/system.slice/app.service", forwarder.FromCache, 0, 9*time.Microsecond)
			if i%4 == 0 {
				f.query(longName, forwarder.FromUpstream, 0, time.Duration(5+n%9)*time.Millisecond)
			}
			if i%40 == 0 {
				f.query("/user.slice/user-1000.slice", forwarder.FromSotto, 2, 3*time.Second)
			}
		}
		f.status.Groups[0].Servers[0].Queries += 100
		h.sample(at)
		at = at.Add(interval)
	}
	return f, h
}

func fetch(t *testing.T, h http.Handler, path string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	text, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(text)
}

// TestPage: the page has the figures, escapes what others can choose, and needs neither scripts
// nor other servers.
func TestPage(t *testing.T) {
	f, h := busy()
	f.query("/a<script>alert(1)</script>", forwarder.FromCache, 0, 0)
	handler := Handler(h, slog.New(slog.DiscardHandler))
	resp, text := fetch(t, handler, "/")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Security-Policy") != policy || !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	for _, want := range []string{
		"version v1.2.3, up 2d2h, PID 4711", "90 %", "2 of 3", "37", "of 65536 in use", "dns.quad9.net", "last error: no route to it from this machine",
		"<td>pod:default/&lt;b&gt;web-0<small class=\"path wide\">" + longName + "</small>", "/a&lt;script&gt;alert(1)&lt;/script&gt;", "/user.slice/user-1000.slice", "100 %", "stopped_packet", "NOERROR", "990",
		"upstream failed server=&lt;b&gt;", `<noscript><meta http-equiv="refresh"`, `<path class="cache" d="M0 `, "5310 answers, 3.0 MiB of 64.0 MiB",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(text, "connect</dt>") {
		t.Error("an event of the hooks is listed as stopped")
	}
	for _, bad := range []string{`(?i)\sstyle=`, `(?i)\son\w+=`, `(?i)<style`, `(?i)(src|href)="(?:[a-z]+:)?//`, `(?i)<script[^>]*>[^<]`, "ZgotmplZ", `%!`, "NaN", "Inf"} {
		if m := regexp.MustCompile(bad).FindString(text); m != "" {
			t.Errorf("the page has %q", m)
		}
	}
	for _, link := range regexp.MustCompile(`(?:src|href)="(/[^"]+)"`).FindAllStringSubmatch(text, -1) {
		if link[1] == "/metrics" {
			continue // of another handler
		}
		if resp, body := fetch(t, handler, link[1]); resp.StatusCode != 200 || body == "" || resp.Header.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: %d", link[1], resp.StatusCode)
		}
	}
	if resp, _ := fetch(t, handler, "/page.html"); resp.StatusCode != 404 {
		t.Errorf("the template is public: %d", resp.StatusCode)
	}
}

// TestEmptyPage: right after the start nothing is known yet.
func TestEmptyPage(t *testing.T) {
	var f fake
	if _, text := fetch(t, Handler(NewHistory(f.source()), slog.New(slog.DiscardHandler)), "/"); !strings.Contains(text, "starting") || !strings.Contains(text, "</html>") {
		t.Errorf("%s", text)
	}
}

// TestStopping: during the time of the setting drain the process is not shown as starting.
func TestStopping(t *testing.T) {
	s := status.Status{Stopping: true}
	var b strings.Builder
	if err := header(&view{Status: s}).Render(&b); err != nil || !strings.Contains(b.String(), "stopping") {
		t.Errorf("%s, %v", b.String(), err)
	}
}

// TestManyWorkloads: the page has a bounded number of rows.
func TestManyWorkloads(t *testing.T) {
	var f fake
	for n := range 300 {
		f.query(fmt.Sprintf("/w%d", n), forwarder.FromCache, 0, 0)
	}
	_, text := fetch(t, Handler(NewHistory(f.source()), slog.New(slog.DiscardHandler)), "/")
	if n := strings.Count(text, "<td>/w"); n != maxWorkloads || !strings.Contains(text, "and 270 more") {
		t.Errorf("%d rows", n)
	}
}
