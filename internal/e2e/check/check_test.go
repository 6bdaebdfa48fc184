// SPDX-License-Identifier: Apache-2.0

package check

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sotto/internal/check"
	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

const upstream = "upstream " + e2e.UpstreamAddr + "#" + e2e.UpstreamName

// TestHealthy checks that everything is ok on a healthy machine, that the sealed query reaches
// the upstream, and that nothing is left.
func TestHealthy(t *testing.T) {
	w := newWorld(t)
	r := w.expect(machine{})
	for _, x := range []want{
		{name: "sealed query", detail: "udp4, tcp4, udp6, tcp6 answered within"},
		{name: "sealed query", detail: "nothing in the clear in"},
		{name: upstream, detail: "certificate valid until"},
		{name: "running Sotto", detail: "none"},
		{name: "configuration", detail: "defaults and flags"},
	} {
		found := false
		for _, got := range r.Results {
			found = found || got.Name == x.name && strings.Contains(got.Detail, x.detail)
		}
		if !found {
			t.Errorf("no %s: %s in %+v", x.name, x.detail, r.Results)
		}
	}
	asked := 0
	for _, q := range w.Upstream.Log() {
		if strings.HasSuffix(q.Name, ".sotto-check.invalid.") {
			asked++
		}
	}
	if asked != 4 {
		t.Errorf("the upstream received %d of 4 sealed queries", asked)
	}
	w.NothingLeft()
}

// TestText checks the form for people, in a pipe.
func TestText(t *testing.T) {
	w := newWorld(t)
	out, status := w.run(machine{setup: "sysctl -qw net.ipv4.conf.eth0.rp_filter=1", args: []string{"--no-query"}})
	want := regexp.MustCompile(`(?s)^ok      configuration: defaults and flags, no file: groups default; 0 rules
ok      running Sotto: none
ok      capabilities: all that are needed
ok      kernel: [0-9][^\n]*, all [^\n]*features[^\n]*
.*
warning reverse path filter: strict on eth0: [^\n]*
        fix: sysctl -w net.ipv4.conf.all.rp_filter=2 \(loose\)
.*
skipped sealed query: --no-query
ok      firewall: no filter found

15 ok, 1 warnings, 0 failed, 1 skipped
$`)
	if status != 0 || !want.MatchString(out) {
		t.Errorf("status %d:\n%s", status, out)
	}
}

// TestColour checks that only a terminal gets colours, and not with NO_COLOR.
func TestColour(t *testing.T) {
	labtest.NeedTool(t, "script")
	w := newWorld(t)
	for _, c := range []struct {
		variable string
		want     bool
	}{{"TERM=xterm", true}, {"NO_COLOR=1", false}} {
		line := strings.Join(append([]string{w.Program.Path, "check", "--no-query"}, w.UpstreamArgs()...), " ")
		cmd := w.Host.Command(t.Context(), nil, "script", "-qec", line, "/dev/null")
		cmd.Env = append(os.Environ(), e2e.RaceEnv, "NO_COLOR=", c.variable)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "ok      kernel: ") && !c.want || strings.Contains(string(out), "\x1b[32mok") != c.want {
			t.Errorf("%s: %v\n%q", c.variable, err, out)
		}
	}
}

// TestUnprivileged checks that without root everything is checked that can be.
func TestUnprivileged(t *testing.T) {
	w := newWorld(t)
	m := machine{
		setup:  "mkdir -p -m 700 /run/sotto && mount -t tmpfs tmpfs /mnt && cp " + w.Program.Path + " " + w.CAFile + " /mnt",
		prefix: []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"},
	}
	w.Program.Path, w.CAFile = "/mnt/sotto", "/mnt/ca.pem"
	skip := func(name string) want { return want{name, check.Skipped, "needs root", "sudo sotto check"} }
	w.expect(m, skip("running Sotto"), skip("capabilities"), skip("kernel"), skip("routes"), skip("programs of other software"), skip("sealed query"), skip("firewall"))
}
