// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// sotto runs a command that asks the process s, and returns its output and exit status.
func (s *serving) sotto(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	code = e.main(context.Background(), append(args, "--control", s.control))
	return out.String(), errs.String(), code
}

// want runs a command and compares its output, in which runs of blanks count as one.
func (s *serving) want(pattern string, args ...string) {
	s.t.Helper()
	out, errs, code := s.sotto(args...)
	out = regexp.MustCompile(` +`).ReplaceAllString(out, " ")
	if code != 0 || errs != "" || !regexp.MustCompile("^(?s:"+pattern+")$").MatchString(out) {
		s.t.Errorf("%v: status %d\n%s%s\nwant %s", args, code, out, errs, pattern)
	}
}

// TestRemoteCommands runs the commands that ask a running Sotto, as a user does.
func TestRemoteCommands(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	up := startServer(t, ca, "192.0.2.1")
	s, _ := startServing(t, fmt.Sprintf("ca-file = %q\nupstream = [%q]\n[[rule]]\nname = \"ads.example\"\nuse = \"nxdomain\"\n", caFile, up.spec))
	s.want("", "status", "--ready")
	for _, q := range []struct{ proto, name, want string }{
		{"udp", "www.example", "192.0.2.1"}, {"tcp", "www.example", "192.0.2.1"}, {"udp", "ads.example", "NXDOMAIN"}, {"udp", "a.www.example", "192.0.2.1"},
	} {
		if got, err := s.ask(q.proto, q.name); got != q.want {
			t.Errorf("%v: %q, %v", q, got, err)
		}
	}
	at := regexp.QuoteMeta(up.spec)
	s.want(`Sotto \S+, ready, up \d+s, PID \d+
Rules 1
Queries 4: cache 1, rule 1, upstream 2
Answers NOERROR 3, NXDOMAIN 1
Upstream times half below .* 99 % below .*
Cache answers: 2, \d+ \S+ of 64.0 MiB, hit rate 33 %

Upstreams of default \(failover\) state usual p95 queries failed
 `+at+` up \S+ ms \S+ ms 2 0
.*`, "status")
	out, _, code := s.sotto("status", "--json")
	var st status.Status
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&st); err != nil || code != 0 || st.Queries.Total != 4 || st.Queries.TCP != 1 || st.Groups[0].Servers[0].Protocol != "TLS 1.3" ||
		st.Groups[0].Servers[0].KeyExchange != "X25519MLKEM768" {
		t.Errorf("status %d, %v: %+v", code, err, st)
	}

	if err := validStatus(out); err != nil {
		t.Error(err)
	}
	st.Workloads = append(st.Workloads, observe.WorkloadCounts{Name: "/docker/1", WorkloadName: "docker:web"})
	if named, err := json.Marshal(st); err != nil || validStatus(string(named)) != nil {
		t.Errorf("with the name of a workload: %v, %v", err, validStatus(string(named)))
	}

	s.want(`Query ads.example. AAAA
Rule 1
Result answered: the name does not exist
`, "explain", "ads.example", "--type", "AAAA")
	s.want(`Query www.example. A
Rule none matches
Result answered from the cache, or forwarded over TLS
Cache NOERROR, fresh for \d+ s
 nothing \(with signatures\)
Upstreams default \(failover\): `+at+`
`, "explain", "www.example")
	s.want(`Query www.example. AXFR
Rule none matches
Result answered at once \(REFUSED\)
Reason zone transfers are not forwarded.*
`, "explain", "www.example", "--type", "AXFR")

	s.want("answers removed: 1\n", "cache", "flush", "A.www.example.")
	s.want("answers removed: 1\n", "cache", "flush", "example")
	s.want("answers removed: 0\n", "cache", "flush")
	s.want("log level was info\n", "log-level", "debug")
	s.want("reloaded\n", "reload")
	s.want("log level was info\n", "log-level", "info")

	for _, tc := range []struct {
		want string
		args []string
	}{
		{`sotto: unknown level "loud": want debug, info, warn or error`, []string{"log-level", "loud"}},
		{`sotto: unknown type "B": want a mnemonic such as AAAA, or TYPE65280`, []string{"explain", "a.example", "--type", "B"}},
		{"sotto: it has an empty label: write one dot between labels", []string{"explain", "a..example"}},
		{`sotto: nameserver is "here": want an address, such as 192.0.2.1 or [2001:db8::1]:53`, []string{"explain", "a.example", "--nameserver", "here"}},
	} {
		if _, errs, code := s.sotto(tc.args...); code != exitFailure || strings.TrimSpace(errs) != tc.want {
			t.Errorf("%v: status %d, %q", tc.args, code, errs)
		}
	}
	other := &serving{t: t, control: filepath.Join(t.TempDir(), "none.sock")}
	if _, errs, code := other.sotto("status"); code != exitFailure || !strings.Contains(errs, "no Sotto listens on") {
		t.Errorf("without a Sotto: status %d, %q", code, errs)
	}
}

// validStatus checks the output of `status --json` against the schema in docs.
func validStatus(text string) error {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/status.schema.json")
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// TestTrace traces while queries are answered, as lines and as JSON.
func TestTrace(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	up := startServer(t, ca, "192.0.2.1")
	s, stop := startServing(t, fmt.Sprintf("ca-file = %q\nupstream = [%q]\n", caFile, up.spec))
	lines, all := s.trace(t, "--name", "www.example"), s.trace(t, "--json")
	for _, name := range []string{"www.example", "other.example", "x.www.example"} {
		// The first queries may come before the traces have started.
		e2e.Eventually(t, "the trace of "+name, func() bool {
			if got, err := s.ask("udp", name); got != "192.0.2.1" {
				t.Fatalf("%s: %q, %v", name, got, err)
			}
			return strings.Contains(all.String(), `"name":"`+name+`."`)
		})
	}
	e2e.Eventually(t, "the filtered trace", func() bool { return strings.Contains(lines.String(), " x.www.example. A → NOERROR upstream ") })
	stop() // ends the traces
	lines.wait(t)
	all.wait(t)
	if strings.Contains(lines.String(), "other.example") {
		t.Errorf("the filter does not work:\n%s", lines)
	}
	for _, line := range strings.Split(strings.TrimSpace(all.String()), "\n") {
		var r observe.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Name == "" || r.Millis == 0 || !r.Client.IsValid() || r.Proto != "udp" {
			t.Errorf("%v: %s", err, line)
		}
	}
}

// tracing is `sotto trace` in this process.
type tracing struct {
	serving // its output
	done    chan int
}

func (s *serving) trace(t *testing.T, args ...string) *tracing {
	tr := &tracing{serving: serving{t: t}, done: make(chan int, 1)}
	e := &env{stdin: strings.NewReader(""), stdout: &tr.serving, stderr: &tr.serving, getenv: func(string) string { return "" }}
	go func() {
		tr.done <- e.main(context.Background(), append([]string{"trace", "--control", s.control}, args...))
	}()
	return tr
}

func (tr *tracing) String() string {
	out, _, _ := strings.Cut(tr.log(), "sotto: ")
	return out
}

// wait waits for the end of the trace, which is that of the process.
func (tr *tracing) wait(t *testing.T) {
	t.Helper()
	if code := <-tr.done; code != exitFailure || !strings.HasSuffix(tr.log(), "sotto: the running Sotto has stopped, or another one has taken over\n") {
		t.Errorf("status %d:\n%s", code, tr.log())
	}
}

// TestWatchTerminal: on a terminal, `status --watch` shows colours on the alternate screen unless
// NO_COLOR is set, and restores the terminal when it is interrupted or fails.
func TestWatchTerminal(t *testing.T) {
	for _, tc := range []struct{ env, shows string }{{"NO_COLOR=", "\x1b[32mready\x1b[0m"}, {"NO_COLOR=1", ", ready, "}} {
		s, stop := startServing(t, "")
		master, slave := labtest.Terminal(t, 80, 24)
		cmd := exec.CommandContext(t.Context(), self().Path, "status", "--watch", "--control", s.control)
		cmd.Env = append(append(os.Environ(), e2e.RaceEnv, "TERM=xterm", tc.env), self().Env...)
		cmd.Stdout, cmd.Stderr = slave, slave
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		readUntil := func(text string) {
			t.Helper()
			for buf := make([]byte, 4096); !strings.Contains(out.String(), text); {
				n, err := master.Read(buf)
				if err != nil {
					t.Fatalf("%v, before %q:\n%q", err, text, out.String())
				}
				out.Write(buf[:n])
			}
		}
		readUntil(tc.shows)
		want := 0
		if tc.env == "NO_COLOR=" {
			_ = cmd.Process.Signal(os.Interrupt)
		} else { // the next state cannot be read
			stop()
			want = exitFailure
		}
		readUntil("\x1b[?1049l")
		_ = cmd.Wait()
		if !strings.HasPrefix(out.String(), "\x1b[?1049h") || cmd.ProcessState.ExitCode() != want || strings.Contains(out.String(), "\x1b[32m") == (tc.env == "NO_COLOR=1") {
			t.Errorf("%s: status %d, %q", tc.env, cmd.ProcessState.ExitCode(), out.String())
		}
	}
}
