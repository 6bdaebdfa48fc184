// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/status"
)

// metricsAddress waits for the address of metrics in the log.
func (s *serving) metricsAddress() string {
	s.t.Helper()
	addr := ""
	e2e.Eventually(s.t, "serve to listen for metrics", func() bool {
		if m := regexp.MustCompile(`msg="serving metrics" address=(\S+)`).FindStringSubmatch(s.log()); m != nil {
			addr = m[1]
		}
		return addr != ""
	})
	return addr
}

// get requests a path of the address for metrics. Headers are pairs of names and values.
func get(t *testing.T, addr, path string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// TestMetrics scrapes a real `serve`, and compares with `status`.
func TestMetrics(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	up := startServer(t, ca, "192.0.2.1")
	refusing := closedPort(t)
	s, stop := startServing(t, fmt.Sprintf("metrics = \"127.0.0.1:0\"\nca-file = %q\nupstream = [%q, %q]\n", caFile, refusing, up.spec))
	addr := s.metricsAddress()
	for _, name := range []string{"a.example", "a.example", "b.example"} {
		if got, err := s.ask("udp", name); got != "192.0.2.1" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	out, _, _ := s.sotto("status", "--json")
	var st status.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatal(err)
	}
	resp, text := get(t, addr, "/metrics")
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%v", resp)
	}
	first, second := st.Groups[0].Servers[0], st.Groups[0].Servers[1]
	labels := fmt.Sprintf(`{group="default",server=%q}`, second.Server)
	for _, want := range []string{
		`sotto_ready 1`, `sotto_build_info{goversion="go1.`,
		`sotto_queries_total{rcode="NOERROR",source="cache"} 1`, `sotto_queries_total{rcode="NOERROR",source="upstream"} 2`,
		`sotto_query_duration_seconds_bucket{source="upstream",le="8"} 2`, `sotto_query_duration_seconds_count{source="upstream"} 2`,
		`sotto_workload_queries_total{workload="unknown"} 3`, `sotto_cache_lookups_total{result="hit"} 1`,
		fmt.Sprintf("sotto_cache_size_bytes %d", st.Cache.Bytes),
		"sotto_upstream_up" + labels + " 1", fmt.Sprintf("sotto_upstream_queries_total%s %d", labels, second.Queries),
		"sotto_upstream_round_trip_seconds_count" + labels + fmt.Sprintf(" %d", second.Queries),
		"sotto_upstream_handshake_duration_seconds_count" + labels + " 1", "sotto_upstream_certificate_expiry_timestamp_seconds" + labels,
		fmt.Sprintf(`sotto_upstream_errors_total{group="default",reason="refused",server=%q} %d`, first.Server, first.Errors["refused"]),
		"go_goroutines ", "process_start_time_seconds ",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("%s does not occur in\n%s", want, text)
		}
	}
	if first.Errors["refused"] == 0 {
		t.Errorf("no refused connection: %+v", first)
	}
	resp, text = get(t, addr, "/metrics", "Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	if !strings.Contains(resp.Header.Get("Content-Type"), "delimited") || !bytes.Contains([]byte(text), []byte("sotto_query_duration_seconds")) {
		t.Errorf("as protocol buffers: %v", resp)
	}
	for host, want := range map[string]int{"localhost:9053": 200, "[::1]:9053": 200, "192.0.2.1": 200, "evil.example:9053": 403} {
		if resp, _ := get(t, addr, "/metrics", "Host", host); resp.StatusCode != want {
			t.Errorf("Host %s: %d, want %d", host, resp.StatusCode, want)
		}
	}
	if resp, text := get(t, addr, "/"); resp.StatusCode != 200 || !strings.Contains(text, second.Server) || !strings.HasPrefix(resp.Header.Get("Content-Security-Policy"), "default-src 'none';") {
		t.Errorf("the web page: %v\n%s", resp, text)
	}
	if resp, _ := get(t, addr, "/v1/status"); resp.StatusCode != 404 {
		t.Errorf("the control API is at the address for metrics: %v", resp)
	}

	s.want("reloaded\n", "reload")
	s.configure(fmt.Sprintf("metrics = \"127.0.0.1:1\"\nca-file = %q\nupstream = [%q]\n", caFile, up.spec))
	if _, errs, code := s.sotto("reload"); code != exitFailure || !strings.Contains(errs, ":3:11: metrics: it changed") {
		t.Errorf("reload with another address: status %d, %s", code, errs)
	}
	stop()
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("the address is still open after the stop")
	}
}

// TestMetricsAddressInUse: without a takeover no two processes share the address.
func TestMetricsAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for value, want := range map[string]string{l.Addr().String(): "listen for metrics: ", "localhost:1": "metrics: listen address", "1": "want ADDR:PORT"} {
		if _, errs, status := call(t, "serve", "--listen", "127.0.0.1:0", "--metrics", value); status == 0 || !strings.Contains(errs, want) {
			t.Errorf("--metrics %s: status %d, %s", value, status, errs)
		}
	}
}

// closedPort returns a server that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String() + "#dns.example"
}
