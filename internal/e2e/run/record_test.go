// SPDX-License-Identifier: Apache-2.0

package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/observe"
)

// loggedNames returns the names in query logs, in order. Every line has to be of the workload
// and of the nameserver that it asked.
func loggedNames(t *testing.T, workload, nameserver string, paths ...string) (names []string) {
	t.Helper()
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for dec := json.NewDecoder(bytes.NewReader(text)); dec.More(); {
			var r observe.Record
			if err := dec.Decode(&r); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if filepath.Base(r.Workload) != workload || r.Nameserver.String() != nameserver {
				t.Errorf("%+v, want %s and %s", r, workload, nameserver)
			}
			names = append(names, strings.TrimSuffix(r.Name, ".example."))
		}
	}
	return names
}

// tappedNames returns the names in the queries of clients in dnstap files, in order. Every
// query has to be to the nameserver.
func tappedNames(t *testing.T, nameserver string, paths ...string) (names []string) {
	t.Helper()
	for _, path := range paths {
		out, err := exec.Command("dnstap-ldns", "-y", "-r", path).CombinedOutput()
		if err != nil {
			t.Fatalf("dnstap-ldns: %v\n%s", err, out)
		}
		for _, doc := range strings.Split(string(out), "---\n") {
			if !strings.Contains(doc, "type: CLIENT_QUERY") {
				continue
			}
			if !strings.Contains(doc, fmt.Sprintf("response_address: %q\n", nameserver)) || !strings.Contains(doc, "response_port: 53\n") {
				t.Errorf("not to %s:\n%s", nameserver, doc)
			}
			names = append(names, regexp.MustCompile(`;(\w+)\.example\.`).FindStringSubmatch(doc)[1])
		}
	}
	return names
}

// TestRecord: after privileges were dropped, the query log and the dnstap file can be rotated,
// and a dnstap receiver that starts later, or again, gets messages. Both show the workload's
// nameserver, not the virtual address. A takeover loses nothing.
func TestRecord(t *testing.T) {
	for program, pkg := range map[string]string{"dnstap-ldns": "dnstap-ldns", "fstrm_capture": "fstrm-bin"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s (package %s) is not installed", program, pkg)
		}
	}
	w := newWorld(t)
	g := w.Cgroup("workload")
	dir := t.TempDir()
	log, taps, socket := filepath.Join(dir, "log"), filepath.Join(dir, "taps"), filepath.Join(dir, "sock")
	config := filepath.Join(dir, "sotto.toml")
	e2e.WriteFile(t, config, fmt.Sprintf("upstream = [%q]\nca-file = %q\nquery-log = %q\ndnstap-file = %q\ndnstap-socket = %q\ndnstap-tls = \"tcp\"\n",
		e2e.UpstreamAddr+"#"+e2e.UpstreamName, w.CAFile, log, taps, socket))
	args := []string{"run", "--config", config, "--cgroup", g.Path}
	p := w.Start("msg=sealed", args...)
	var want []string
	ask := func() {
		t.Helper()
		name := fmt.Sprintf("n%d", len(want))
		want = append(want, name)
		if out := w.Dig(w.Host, g, "@8.8.8.8", name+".example"); !strings.Contains(out, e2e.Sealed4) {
			t.Errorf("%s:\n%s", name, out)
		}
	}
	capture := func(path string) (stop func()) {
		cmd := exec.Command("fstrm_capture", "-t", "protobuf:dnstap.Dnstap", "-u", socket, "-w", path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
				t.Error(err)
			}
		}
	}
	written := func() {
		t.Helper()
		w.Until("the socket's messages", func() bool {
			out, _, _ := w.Sotto("status", "--json")
			m := regexp.MustCompile(`(?s)` + socket + `",\s*"written": (\d+),\s*"lost": 0`).FindStringSubmatch(out)
			return m != nil && m[1] != "0"
		})
	}
	ask()
	stop := capture(filepath.Join(dir, "captured"))
	ask()
	written()
	if err := errors.Join(os.Rename(log, log+".1"), os.Rename(taps, taps+".1")); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, status := w.Sotto("reload"); status != 0 {
		t.Errorf("reload: status %d, %q, %q", status, stdout, stderr)
	}
	ask()
	p = w.Replace(p, args...)
	ask()
	w.Stop(p)
	stop()

	renamed, err := filepath.Glob(taps + ".2*")
	if err != nil || len(renamed) != 1 {
		t.Fatalf("the predecessor's file: %v, %v", renamed, err)
	}
	if got := loggedNames(t, filepath.Base(g.Path), "8.8.8.8:53", log+".1", log); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logged %v, want %v", got, want)
	}
	if got := tappedNames(t, "8.8.8.8", taps+".1", renamed[0], taps); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("in files %v, want %v", got, want)
	}
	if got := tappedNames(t, "8.8.8.8", filepath.Join(dir, "captured")); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("received %v, want %v", got, want)
	}
	if text, err := os.ReadFile(taps); err != nil || !bytes.Contains(text, []byte(filepath.Base(g.Path))) {
		t.Errorf("the workload is not there: %v", err)
	}
}
