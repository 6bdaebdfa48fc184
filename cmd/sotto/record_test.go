// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// logLine is a line of the query log.
type logLine struct {
	Msg string `json:"msg"`
	observe.Record
}

func readLog(t *testing.T, path string) (lines []logLine) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(bytes.NewReader(text)); dec.More(); {
		var l logLine
		if err := dec.Decode(&l); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, text)
		}
		lines = append(lines, l)
	}
	return lines
}

// tapped is one message that dnstap-ldns has read, as YAML.
type tapped string

// get returns the value of a field.
func (m tapped) get(field string) string {
	if v := regexp.MustCompile(`(?m)^ +` + field + `: (.*)$`).FindStringSubmatch(string(m)); v != nil {
		return strings.Trim(v[1], `"`)
	}
	return ""
}

// summary is the kind of the message, its name, and the addresses in the answer.
func (m tapped) summary() string {
	s := m.get("type")
	if name := regexp.MustCompile(`(?m)^ +;(\S+)\tIN`).FindStringSubmatch(string(m)); name != nil {
		s += " " + name[1]
	}
	for _, a := range regexp.MustCompile(`\tIN\tA\t(\S+)`).FindAllStringSubmatch(string(m), -1) {
		s += " " + a[1]
	}
	return s
}

// readTaps reads a dnstap file with Debian's reader, or skips the test if it is not installed.
func readTaps(t *testing.T, path string) (all []tapped) {
	t.Helper()
	if _, err := exec.LookPath("dnstap-ldns"); err != nil {
		t.Skip("dnstap-ldns (package dnstap-ldns) is not installed")
	}
	var stderr bytes.Buffer
	cmd := exec.Command("dnstap-ldns", "-y", "-r", path)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("dnstap-ldns: %v\n%s%s", err, out, &stderr)
	}
	docs := strings.SplitAfter(string(out), "---\n")
	for _, doc := range docs[:len(docs)-1] {
		all = append(all, tapped(doc))
	}
	return all
}

// startRecording runs `sotto serve` with settings, and with one upstream and a rule.
func startRecording(t *testing.T, settings string) (s *serving, up *server, stop func()) {
	t.Helper()
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	up = startServer(t, ca, "192.0.2.1")
	s, stop = startServing(t, settings+fmt.Sprintf("ca-file = %q\nupstream = [%q]\n[[rule]]\nname = \"ads.example\"\nuse = \"nxdomain\"\n", caFile, up.spec))
	return s, up, stop
}

// TestRecord compares the query log and dnstap, as an independent reader prints it, with what
// was asked: over both protocols, from the upstream, the cache and a rule.
func TestRecord(t *testing.T) {
	dir := t.TempDir()
	log, taps := filepath.Join(dir, "log"), filepath.Join(dir, "taps")
	before := time.Now()
	s, up, stop := startRecording(t, fmt.Sprintf("query-log = %q\ndnstap-file = %q\ndnstap-tls = \"tcp\"\ndnstap-identity = \"id\"\n", log, taps))
	for _, q := range []struct{ proto, name, want string }{
		{"udp", "www.example", "192.0.2.1"}, {"tcp", "www.example", "192.0.2.1"}, {"udp", "ads.example", "NXDOMAIN"},
	} {
		if got, err := s.ask(q.proto, q.name); got != q.want {
			t.Fatalf("%v: %q, %v", q, got, err)
		}
	}
	var st status.Status
	e2e.Eventually(t, "the records to be written", func() bool {
		out, _, _ := s.sotto("status", "--json")
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			t.Fatal(err)
		}
		return len(st.Outputs) == 2 && st.Outputs[0].Written == 3 && st.Outputs[1].Written >= 8
	})
	if st.Outputs[0] != (status.Output{Kind: "query log", Target: log, Written: 3}) || st.Outputs[1].Target != taps || st.Outputs[1].Kind != "dnstap" {
		t.Errorf("%+v", st.Outputs)
	}
	out, _, _ := s.sotto("status")
	if !strings.Contains(out, log+": 3 written, 0 lost\n") {
		t.Errorf("status:\n%s", out)
	}
	stop()

	if text, err := os.ReadFile(taps); err != nil || !bytes.HasSuffix(text, []byte{0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3}) {
		t.Errorf("the stream has no end: %v", err)
	}
	lines := readLog(t, log)
	want := []string{"www.example. udp NOERROR upstream", "www.example. tcp NOERROR cache", "ads.example. udp NXDOMAIN rule"}
	if len(lines) != len(want) {
		t.Fatalf("%+v", lines)
	}
	for i, l := range lines {
		if got := fmt.Sprint(l.Name, " ", l.Proto, " ", l.Rcode, " ", l.Source); got != want[i] || l.Msg != "query" || l.Time.Before(before.Truncate(0)) {
			t.Errorf("line %d: %+v, want %s", i, l, want[i])
		}
	}
	checkTaps(t, readTaps(t, taps), s.addr, strings.Split(up.spec, "#")[0], lines, before)
}

// TestQueryLogStderr: the lines are among Sotto's messages, each on a line of its own.
func TestQueryLogStderr(t *testing.T) {
	s, _, stop := startRecording(t, "query-log = \"stderr\"\nquery-log-hash-names = true\n")
	for range 3 {
		if got, err := s.ask("udp", "www.example"); got != "192.0.2.1" {
			t.Error(got, err)
		}
	}
	s.want("reloaded\n", "reload")
	stop()
	lines := regexp.MustCompile(`(?m)^\{"time":.*"name":"([0-9a-f]{16}\.[0-9a-f]{16}\.)".*\}$`).FindAllStringSubmatch(s.log(), -1)
	if len(lines) != 3 || lines[0][1] != lines[2][1] || strings.Contains(s.log(), "www.example") {
		t.Errorf("%q in\n%s", lines, s.log())
	}
}

// TestRecordSettings: a reload refuses to change where queries are recorded.
func TestRecordSettings(t *testing.T) {
	dir := t.TempDir()
	s, _ := startServing(t, fmt.Sprintf("query-log = %q\n", filepath.Join(dir, "a")))
	for _, text := range []string{
		fmt.Sprintf("query-log = %q\n", filepath.Join(dir, "b")), "",
		fmt.Sprintf("query-log = %q\nquery-log-sample = 2\n", filepath.Join(dir, "a")),
		fmt.Sprintf("query-log = %q\ndnstap-file = %q\ndnstap-tls = \"tcp\"\n", filepath.Join(dir, "a"), filepath.Join(dir, "c")),
	} {
		s.configure(text)
		if _, errs, code := s.sotto("reload"); code != exitFailure || !strings.Contains(errs, "a reload cannot change it") {
			t.Errorf("%q: status %d, %s", text, code, errs)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
}

// checkTaps checks the messages of TestRecord. Queries of Sotto's own to the upstream are
// ignored.
func checkTaps(t *testing.T, all []tapped, listener, upstream string, lines []logLine, before time.Time) {
	t.Helper()
	want := map[string]int{
		"CLIENT_QUERY www.example.": 2, "FORWARDER_QUERY www.example.": 1, "FORWARDER_RESPONSE www.example. 192.0.2.1": 1,
		"CLIENT_RESPONSE www.example. 192.0.2.1": 2, "CLIENT_QUERY ads.example.": 1, "CLIENT_RESPONSE ads.example.": 1,
	}
	for _, m := range all {
		kind := m.summary()
		if strings.HasPrefix(kind, "FORWARDER") && !strings.Contains(kind, "www") {
			continue
		}
		want[kind]--
		responder, querier := m.get("response_address")+":"+m.get("response_port"), m.get("query_address")+":"+m.get("query_port")
		if strings.HasPrefix(kind, "CLIENT") {
			known := false
			for _, l := range lines {
				known = known || l.Client.String() == querier && strings.ToUpper(l.Proto) == m.get("socket_protocol") && strings.Contains(kind, l.Name)
			}
			if !known || responder != listener {
				t.Errorf("addresses of\n%s", m)
			}
		} else if responder != upstream || m.get("query_port") == "" || m.get("query_address") != "127.0.0.1" {
			t.Errorf("addresses of\n%s", m)
		}
		for _, field := range []string{"query_time", "response_time"} {
			text := strings.TrimPrefix(m.get(field), "!!timestamp ")
			if text == "" && field == "response_time" && strings.Contains(kind, "QUERY") {
				continue
			}
			at, err := time.Parse("2006-01-02 15:04:05.000000", text)
			if err != nil || at.Before(before.Truncate(time.Microsecond)) || at.After(time.Now()) {
				t.Errorf("%s of %s: %v, %v", field, kind, at, err)
			}
		}
		if !strings.Contains(string(m), "identity: \"id\"\n") || !strings.Contains(string(m), "version: \"sotto ") {
			t.Errorf("the sender of\n%s", m)
		}
	}
	for kind, n := range want {
		if n != 0 {
			t.Errorf("%q: %d too few", kind, n)
		}
	}
}

// TestRotateUnderLoad rotates both files with `sotto reload` while queries are answered: each
// query is logged once, and every old file is complete. An invalid configuration does not
// prevent it.
func TestRotateUnderLoad(t *testing.T) {
	dir := t.TempDir()
	log, taps := filepath.Join(dir, "log"), filepath.Join(dir, "taps")
	s, _, stop := startRecording(t, fmt.Sprintf("query-log = %q\ndnstap-file = %q\ndnstap-messages = [\"client\"]\n", log, taps))
	var logged int64
	clientQueries := int64(0)
	read := func(log, taps string) {
		logged += int64(len(readLog(t, log)))
		for _, m := range readTaps(t, taps) {
			if m.get("type") == "CLIENT_QUERY" {
				clientQueries++
			}
		}
	}
	asked, end := startQueries(t, s, "192.0.2.1")
	const rotations = 5
	for i := range rotations {
		before := asked.Load()
		e2e.Eventually(t, "some queries", func() bool { return asked.Load() > before+20 })
		old := fmt.Sprint(".", i)
		if err := errors.Join(os.Rename(log, log+old), os.Rename(taps, taps+old)); err != nil {
			t.Fatal(err)
		}
		if i == rotations-1 {
			e2e.WriteFile(t, s.config, "cache-mib = [")
			if out, errs, code := s.sotto("reload"); code != exitFailure {
				t.Errorf("status %d, %s%s", code, out, errs)
			}
		} else {
			s.want("reloaded\n", "reload")
		}
		read(log+old, taps+old)
	}
	end()
	stop()
	read(log, taps)
	if logged != asked.Load() || clientQueries != logged {
		t.Errorf("%d queries, %d logged, %d in dnstap", asked.Load(), logged, clientQueries)
	}
}

// TestReopenFails: a reload reports that a file cannot be opened, and the old one stays in use.
func TestReopenFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, _, stop := startRecording(t, fmt.Sprintf("query-log = %q\n", filepath.Join(dir, "log")))
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := s.sotto("reload"); code != exitFailure || !strings.Contains(errs, "reopen the query log") {
		t.Errorf("status %d, %s", code, errs)
	}
	if got, err := s.ask("udp", "www.example"); got != "192.0.2.1" {
		t.Error(got, err)
	}
	e2e.WriteFile(t, s.config, "cache-mib = [")
	if _, errs, code := s.sotto("reload"); code != exitFailure || !strings.Contains(errs, "reopen the query log") || !strings.Contains(errs, "toml:1:") {
		t.Errorf("with an invalid configuration: status %d, %s", code, errs)
	}
	stop()
	if lines := readLog(t, filepath.Join(dir+".old", "log")); len(lines) != 1 {
		t.Errorf("%+v", lines)
	}
}

// TestStuckTapReceiver: queries are answered while a dnstap receiver does not read, and what
// it misses is counted.
func TestStuckTapReceiver(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, _, stop := startRecording(t, fmt.Sprintf("dnstap-socket = %q\n", socket))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	acceptStream(t, c)
	lost := func() (n uint64) {
		var st status.Status
		out, _, _ := s.sotto("status", "--json")
		if err := json.Unmarshal([]byte(out), &st); err != nil || len(st.Outputs) != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		return st.Outputs[0].Lost
	}
	var load sync.WaitGroup
	var done atomic.Bool
	for range 8 {
		load.Go(func() {
			for !done.Load() {
				if got, err := s.ask("udp", "www.example"); got != "192.0.2.1" {
					t.Error(got, err)
					return
				}
			}
		})
	}
	for end := time.Now().Add(time.Minute); lost() == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if lost() == 0 {
		t.Error("nothing was lost")
	}
	done.Store(true)
	load.Wait()
	stop() // although the receiver does not read
}

// acceptStream answers the READY frame of a sender with ACCEPT.
func acceptStream(t *testing.T, c net.Conn) {
	t.Helper()
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, binary.BigEndian.Uint32(head[4:]))
	if _, err := io.ReadFull(c, frame); err != nil {
		t.Fatal(err)
	}
	if typ := binary.BigEndian.Uint32(frame); typ != 4 {
		t.Fatalf("control frame %d, want READY", typ)
	}
	binary.BigEndian.PutUint32(frame, 1)
	if _, err := c.Write(append(head[:], frame...)); err != nil {
		t.Fatal(err)
	}
}
