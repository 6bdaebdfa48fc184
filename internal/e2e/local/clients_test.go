// SPDX-License-Identifier: Apache-2.0

package local

import (
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// client is a program that resolves the names in its last arguments. It prints a line for each:
// the name, then its addresses or an error.
type client struct {
	name    string
	args    []string
	missing string // why this machine does not have it
}

// clients returns all clients. It needs root, and compiles some of them for the duration of t.
func clients(t *testing.T) []client {
	t.Helper()
	labtest.NeedRoot(t)
	for _, tool := range []string{"getent", "dig", "curl"} {
		labtest.NeedTool(t, tool)
	}
	return []client{
		{"getent", each(`getent ahostsv4 "$n"`), ""},
		{"dig", each(`dig +short +tries=1 +timeout=20 "$n"`), ""},
		{"dig TCP", each(`dig +short +tries=1 +timeout=20 +tcp "$n"`), ""},
		{"musl", []string{buildMusl(t)}, ""},
		{"Go", append([]string{"env", "GODEBUG=netdns=go"}, e2e.Client("lookup")...), ""},
		{"Go, cgo", append([]string{"env", "GODEBUG=netdns=cgo"}, e2e.Client("lookup")...), ""},
		// It connects to the address that it prints.
		{"curl", each(`curl -4 -sS --noproxy '*' --max-time 40 -o /dev/null -w '%{remote_ip}' "http://$n/"`), ""},
		java(t),
	}
}

// each returns the command line of a client that runs command for each name $n.
func each(command string) []string {
	return []string{"sh", "-c", `for n; do echo "$n" $(` + command + ` 2>&1); done`, "sh"}
}

// buildMusl compiles a static client that resolves by getaddrinfo of musl.
func buildMusl(t *testing.T) string {
	t.Helper()
	out := t.TempDir() + "/libc"
	cmd := exec.Command(labtest.NeedTool(t, "musl-gcc"), "-static", "-o", out, "../resolve/testdata/libc.c")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, text)
	}
	return out
}

// java compiles the client in Java. It is optional: scripts/test.sh does not install Java.
func java(t *testing.T) client {
	t.Helper()
	for _, tool := range []string{"javac", "java"} {
		if _, err := exec.LookPath(tool); err != nil {
			return client{name: "Java", missing: tool + " is not installed"}
		}
	}
	dir := t.TempDir()
	if out, err := exec.Command("javac", "-d", dir, "../resolve/testdata/Lookup.java").CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	return client{name: "Java", args: []string{"java", "-XX:TieredStopAtLevel=1", "-cp", dir, "Lookup"}}
}

// publicName is a name that only the upstream knows.
const publicName = "www.example.com"

// session returns a script that resolves a public name and the local names with each client.
func session(list []client) string {
	names := quote(append([]string{publicName}, localNames...))
	var script strings.Builder
	for _, c := range list {
		if c.missing == "" {
			script.WriteString("echo; echo " + quote([]string{"== " + c.name}) + "\n" + quote(c.args) + " " + names + "\n")
		}
	}
	return script.String()
}

// quote returns arguments as words of a shell.
func quote(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// command runs a command and returns its output and status.
type command func(args ...string) (stdout, stderr string, status int)

// checkClients runs the clients in one session; prefix is the start of its command line. Each must
// resolve the public name as the upstream does, and local names as the local resolver does.
func checkClients(t *testing.T, list []client, run command, prefix ...string) {
	t.Helper()
	stdout, stderr, _ := run(slices.Concat(prefix, []string{"sh", "-c", session(list)})...)
	t.Logf("stderr: %s", stderr)
	for _, c := range list {
		t.Run(c.name, func(t *testing.T) {
			if c.missing != "" {
				t.Skip("skipped: " + c.missing)
			}
			_, out, _ := strings.Cut(stdout, "\n== "+c.name+"\n")
			out, _, _ = strings.Cut(out, "\n== ")
			for _, n := range append([]string{publicName}, localNames...) {
				want := local4
				if n == publicName {
					want = e2e.Sealed4
				}
				if !resolves(out, n, want) {
					t.Errorf("no line with %s %s in:\n%s", n, want, out)
				}
			}
		})
	}
}

// resolves reports whether the output of a client has a line for name with addr.
func resolves(out, name, addr string) bool {
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			// Java prints [NAME/ADDR, …].
			return slices.Contains(strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(" ,/[]\n", r) }), addr)
		}
	}
	return false
}

// serveHTTP serves HTTP at the addresses of the names, for curl.
func (w *world) serveHTTP(t *testing.T) {
	t.Helper()
	for _, addr := range []string{e2e.Sealed4, local4} {
		if err := w.LAN.Addr("lo", addr+"/32"); err != nil {
			t.Fatal(err)
		}
		var l net.Listener
		err := w.LAN.Do(func() (err error) {
			l, err = dnstest.Listen(netip.AddrPortFrom(netip.MustParseAddr(addr), 80))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.NotFoundHandler()}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = srv.Serve(l) // until it is closed
		}()
		t.Cleanup(func() {
			_ = srv.Close()
			<-done
		})
	}
}
