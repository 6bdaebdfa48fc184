// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/tap"
	"sotto/internal/dnstap/dnstaptest"
)

// reader returns the path of a program of Debian's package, or skips the test.
func reader(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s (package %s) is not installed", program, pkg)
	}
	return path
}

// decode returns what dnstap-ldns prints about a file, in the quiet format or as YAML.
func decode(t *testing.T, path, format string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(reader(t, "dnstap-ldns", "dnstap-ldns"), format, "-r", path)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("dnstap-ldns: %v\n%s%s", err, out, &stderr)
	}
	return string(out)
}

func message(t testing.TB, kind tap.Kind, name string) tap.Message {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	tm := tap.Message{
		Kind: kind, Proto: tap.UDP, Workload: "/app.slice",
		Querier: netip.MustParseAddrPort("192.0.2.7:40000"), Responder: netip.MustParseAddrPort("9.9.9.9:53"),
		Queried: time.Unix(1_800_000_000, 123_456_789),
	}
	if kind == tap.ForwarderQuery || kind == tap.ForwarderResponse {
		tm.Proto, tm.Workload = tap.TLS, ""
		tm.Querier, tm.Responder = netip.MustParseAddrPort("[2001:db8::7]:50000"), netip.MustParseAddrPort("[2620:fe::fe]:853")
	}
	if kind == tap.ClientResponse || kind == tap.ForwarderResponse {
		m.Response = true
		tm.Replied = tm.Queried.Add(time.Second)
	}
	var err error
	if tm.Data, err = m.Pack(); err != nil {
		t.Fatal(err)
	}
	return tm
}

// open starts a tap. stop writes the rest and closes it.
func open(t *testing.T, cfg Config) (tp *Tap, stop func()) {
	t.Helper()
	cfg.Identity, cfg.Version = "host.example", "sotto 1"
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	tp, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tp.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, tp.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return tp, stop
}

var allKinds = []tap.Kind{tap.ClientQuery, tap.ClientResponse, tap.ForwarderQuery, tap.ForwarderResponse}

// TestTLS: readers show the protocol of messages over TLS as DOT, and as TCP if that is configured.
// dnstap-ldns 0.2.1 reads only the latter, and dnstap-read 9.18 shows DOT as UDP.
func TestTLS(t *testing.T) {
	const cannot = "cannot" // read the file
	for _, r := range []struct {
		program, pkg string
		args         []string
		dot, tcp     string // in its output
	}{
		{"dnstap", "golang-github-dnstap-golang-dnstap-cli", []string{"-y", "-r"}, "socket_protocol: DOT\n", "socket_protocol: TCP\n"},
		{"dnstap-read", "bind9-dnsutils", []string{"-y"}, "socket_protocol: UDP\n", "socket_protocol: TCP\n"},
		{"dnstap-ldns", "dnstap-ldns", []string{"-y", "-r"}, cannot, "socket_protocol: TCP\n"},
	} {
		t.Run(r.program, func(t *testing.T) {
			program := reader(t, r.program, r.pkg)
			for _, asTCP := range []bool{false, true} {
				path := filepath.Join(t.TempDir(), "taps")
				tp, stop := open(t, Config{File: path, Forwarder: true, TLSAsTCP: asTCP})
				tp.Message(message(t, tap.ForwarderQuery, "www.example."))
				tp.Message(message(t, tap.ForwarderResponse, "www.example."))
				stop()
				want := r.dot
				if asTCP {
					want = r.tcp
				}
				out, err := exec.Command(program, append(r.args, path)...).CombinedOutput()
				if want == cannot {
					if strings.Contains(string(out), "FORWARDER_RESPONSE") {
						t.Errorf("it can read the file now: remove the exception\n%s", out)
					}
					continue
				}
				if n := strings.Count(string(out), want); err != nil || n != 2 {
					t.Errorf("%d times %q: %v\n%s", n, want, err, out)
				}
			}
		})
	}
}

// TestTransports: a reader shows the protocols of upstreams other than TLS, and what is below them
// if that is configured.
func TestTransports(t *testing.T) {
	program := reader(t, "dnstap", "golang-github-dnstap-golang-dnstap-cli")
	for _, tc := range []struct {
		proto tap.Proto
		asTCP bool
		want  string
	}{
		{tap.HTTPS, false, "socket_protocol: DOH\n"},
		{tap.HTTPS, true, "socket_protocol: TCP\n"},
		{tap.QUIC, true, "socket_protocol: UDP\n"},
	} {
		path := filepath.Join(t.TempDir(), "taps")
		tp, stop := open(t, Config{File: path, Forwarder: true, TLSAsTCP: tc.asTCP})
		m := message(t, tap.ForwarderQuery, "www.example.")
		m.Proto = tc.proto
		tp.Message(m)
		stop()
		if out, err := exec.Command(program, "-y", "-r", path).CombinedOutput(); err != nil || !strings.Contains(string(out), tc.want) {
			t.Errorf("protocol %d, as TCP %v: no %q: %v\n%s", tc.proto, tc.asTCP, tc.want, err, out)
		}
	}
	if n := protos[tap.QUIC]; n != 7 { // DOQ, which no reader knows yet
		t.Errorf("the number of DNS over QUIC is %d", n)
	}
}

// TestFile: an independent reader finds every field of every kind of message.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "taps")
	tp, stop := open(t, Config{File: path, Client: true, Forwarder: true, TLSAsTCP: true})
	for _, k := range allKinds {
		tp.Message(message(t, k, "www.example."))
	}
	stop()
	docs := strings.SplitAfter(decode(t, path, "-y"), "---\n")
	if docs = docs[:len(docs)-1]; len(docs) != len(allKinds) {
		t.Fatalf("%d messages: %q", len(docs), docs)
	}
	for i, doc := range docs {
		want := []string{`identity: "host.example"`, `version: "sotto 1"`, `type: MESSAGE`, `type: ` + []string{"CLIENT_QUERY", "CLIENT_RESPONSE", "FORWARDER_QUERY", "FORWARDER_RESPONSE"}[i],
			"query_time: !!timestamp 2027-01-15 08:00:00.123456", ";www.example."}
		if i < 2 {
			want = append(want, "socket_family: INET\n", "socket_protocol: UDP", `query_address: 192.0.2.7`, `query_port: 40000`, `response_address: 9.9.9.9`, `response_port: 53`)
		} else {
			want = append(want, "socket_family: INET6", "socket_protocol: TCP", `query_address: 2001:db8::7`, `query_port: 50000`, `response_address: 2620:fe::fe`, `response_port: 853`)
		}
		if i%2 == 1 {
			want = append(want, "response_time: !!timestamp 2027-01-15 08:00:01.123456", "response_message: |")
		} else {
			want = append(want, "query_message: |")
		}
		for _, w := range want {
			if !strings.Contains(strings.ReplaceAll(doc, `"`, ""), strings.ReplaceAll(w, `"`, "")) {
				t.Errorf("message %d has no %q", i, w)
			}
		}
	}
	if s, ok := tp.FileStats(); !ok || s != (Stats{Written: 4}) {
		t.Errorf("%+v", s)
	}
}

// TestExtra: an independent reader finds workload and name, which changes while messages are
// recorded. Messages of upstreams have none.
func TestExtra(t *testing.T) {
	path := filepath.Join(t.TempDir(), "taps")
	name := ""
	tp, stop := open(t, Config{File: path, Client: true, Forwarder: true, WorkloadName: func(string) string { return name }})
	m := message(t, tap.ClientQuery, "www.example.")
	want := []dnstaptest.Extra{{Workload: "/app"}, {Workload: "/app", Name: "docker:web"}, {Workload: "/app", Name: "docker:web"}, {Workload: "/ä\"", Name: "docker:db"}, {}}
	for _, e := range want {
		m.Workload, name = e.Workload, e.Name
		tp.Message(m)
	}
	tp.Message(message(t, tap.ForwarderQuery, "www.example."))
	stop()
	var got []dnstaptest.Extra
	for _, m := range dnstaptest.Read(t, path) {
		got = append(got, m.Extra)
	}
	if !slices.Equal(got, append(want, dnstaptest.Extra{})) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestKinds: only the configured messages are recorded.
func TestKinds(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want string
	}{{Config{Client: true}, "CQ CR"}, {Config{Forwarder: true}, "FQ FR"}} {
		path := filepath.Join(t.TempDir(), "taps")
		tc.cfg.File = path
		tp, stop := open(t, tc.cfg)
		for _, k := range allKinds {
			tp.Message(message(t, k, "www.example."))
		}
		stop()
		if got := strings.Join(regexp.MustCompile(`\b[CF][QR]\b`).FindAllString(decode(t, path, "-q"), -1), " "); got != tc.want {
			t.Errorf("%s, want %s", got, tc.want)
		}
	}
}

// names returns the names of the questions in files, each with its number.
func names(t *testing.T, paths ...string) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, path := range paths {
		for _, m := range regexp.MustCompile(` "?(n\d+\.example\.)"? `).FindAllStringSubmatch(decode(t, path, "-q"), -1) {
			all[m[1]]++
		}
	}
	return all
}

// complete checks that the stream in a file was ended.
func complete(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil || !bytes.HasSuffix(text, []byte{0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, controlStop}) {
		t.Errorf("%s does not end with a STOP frame: %v", path, err)
	}
}

// TestRotation: every message is in one of the files, each of which is a complete stream, also
// after a restart without rotation.
func TestRotation(t *testing.T) {
	reader(t, "dnstap-ldns", "dnstap-ldns")
	dir := t.TempDir()
	path := filepath.Join(dir, "taps")
	const each, rotations = 50, 5
	n := 0
	for range 2 {
		tp, stop := open(t, Config{File: path, Client: true})
		for i := range rotations {
			for range each {
				tp.Message(message(t, tap.ClientQuery, fmt.Sprintf("n%d.example.", n)))
				n++
			}
			old := fmt.Sprintf("%s.old%d-%d", path, n, i)
			err := os.Rename(path, old)
			if i%2 == 1 { // as logrotate does with "create"
				err = errors.Join(err, os.WriteFile(path, nil, 0o640))
			}
			if err := errors.Join(err, tp.Reopen(t.Context())); err != nil {
				t.Fatal(err)
			}
			complete(t, old)
			if err := tp.Reopen(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		tp.Message(message(t, tap.ClientQuery, fmt.Sprintf("n%d.example.", n)))
		n++
		stop()
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 2*(rotations+1) {
		t.Errorf("%v, %v", files, err)
	}
	for _, path := range files {
		complete(t, path)
	}
	got := names(t, files...)
	for i := range n {
		if c := got[fmt.Sprintf("n%d.example.", i)]; c != 1 {
			t.Errorf("message %d is there %d times", i, c)
		}
	}
}

// TestFullDisk: messages are lost and counted.
func TestFullDisk(t *testing.T) {
	if _, err := Open(Config{File: "/dev/full", Client: true}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "taps")
	s, err := newStream(path)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	f := &file{buffer: newBuffer(), cfg: &Config{Log: slog.New(slog.NewTextHandler(&text, nil))}, now: stream{File: full}}
	f.add([]byte("frame"))
	f.flush()
	if got := f.stats(); got != (Stats{Lost: 1}) || !strings.Contains(text.String(), "no space left") {
		t.Errorf("%+v\n%s", got, &text)
	}
	if err := errors.Join(full.Close(), s.finish()); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkMessage(b *testing.B) {
	tp, err := Open(Config{File: filepath.Join(b.TempDir(), "taps"), Client: true})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- tp.Run(ctx) }()
	m := message(b, tap.ClientQuery, "www.example.com.")
	b.ReportAllocs()
	for b.Loop() {
		tp.Message(m)
	}
	cancel()
	if err := errors.Join(<-done, tp.Close()); err != nil {
		b.Fatal(err)
	}
}
