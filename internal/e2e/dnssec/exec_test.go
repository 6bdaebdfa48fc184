// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sotto/internal/e2e"
)

// changing is what differs between two answers to the same query.
var (
	changing = regexp.MustCompile(`(?m)^(;; (Query time|WHEN|SERVER|MSG SIZE|flags|->>HEADER|Truncated).*|; EDNS.*|; COOKIE.*)\n`)
	ttl      = regexp.MustCompile(`[ \t]+\d*[ \t]*IN[ \t]+`)
)

// askResolved asks a systemd-resolved that validates, too. Port 5354 is not one that Sotto catches:
// only resolved's own queries are.
const askResolved = `
for i in $(seq 200); do
	! dig -p 5354 @127.0.0.1 +time=1 +tries=1 . SOA >/dev/null || break
	sleep 0.05
done
while read -r name type; do
	echo "## $name $type"
	dig -p 5354 @127.0.0.1 +dnssec +noall +comments +answer "$name" "$type" | sed 's/, id: [0-9]*//'
done <"$dir/questions"
`

// TestExec: clients that validate themselves (delv, systemd-resolved with DNSSEC=yes) and dig with
// signatures see through `exec`, with validation and without, what they see without Sotto.
func TestExec(t *testing.T) {
	if os.Getenv(full) == "" {
		t.Skipf("set %s=1, as scripts/dnssec-test.sh does", full)
	}
	dir := t.TempDir()
	// systemd-resolved asks nothing without a network interface.
	command(t, dir, "ip", "link", "add", "up0", "type", "veth", "peer", "up1")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", "up0").Run() })
	command(t, dir, "ip", "address", "add", "192.0.2.99/32", "dev", "up0")
	command(t, dir, "ip", "link", "set", "up0", "up")
	command(t, dir, "ip", "link", "set", "up1", "up")
	resolved := e2e.Resolved{
		Dir: dir, Settings: []string{"DNS=" + addrUpstream, "Domains=~.", "DNSSEC=yes", "DNSStubListenerExtra=127.0.0.1:5354"},
		Setup:  "mkdir -p /etc/dnssec-trust-anchors.d\nmount -t tmpfs tmpfs /etc/dnssec-trust-anchors.d\ncp \"$dir/root.positive\" /etc/dnssec-trust-anchors.d\necho other.example >/etc/dnssec-trust-anchors.d/some.negative",
		Client: askResolved,
	}.Command(t)
	zones := build(t, dir, 3, world("a8", "a8n", "a8o", "a10", "a13", "plain", "badasig", "wrongds"))
	hints, anchor := serveZones(t, dir, zones)
	server, ca := resolvers(t, dir, hints, anchor)
	writeFile(t, dir+"/root.positive", ". IN DS "+strings.ReplaceAll(root(zones), "\"", "")+"\n")
	writeFile(t, dir+"/delv.key", "trust-anchors { . static-ds "+root(zones)+"; };\n")
	var script, questions strings.Builder
	for _, z := range []string{"a8.test", "a8n.test", "a8o.test", "a10.test", "plain.test", "badasig.test", "wrongds.test"} {
		for _, q := range []string{"www A", "nx A", "q.w A", "alias A", "www AAAA", "_25._tcp.mail TLSA", "cross A", "www.dn A"} {
			name, typ, _ := strings.Cut(q, " ")
			fmt.Fprintf(&script, "echo '## %s.%s %s'\ndelv -a %s/delv.key @%s %[1]s.%[2]s %[3]s 2>&1\n", name, z, typ, dir, addrUpstream)
			fmt.Fprintf(&script, "dig +dnssec +cd +noadditional @%s %s.%s %s\n", addrUpstream, name, z, typ)
			fmt.Fprintf(&questions, "%s.%s %s\n", name, z, typ)
		}
	}
	writeFile(t, dir+"/delv.sh", script.String()+"true\n") // delv's status is that of the last answer
	writeFile(t, dir+"/questions", questions.String())
	for _, client := range []struct {
		name, validated, refused string   // what it prints of answers
		command                  []string // it reads dir
	}{
		{"delv", "fully validated", ";; resolution failed: broken trust chain", []string{"sh", dir + "/delv.sh"}},
		{"resolved", ";; flags: qr rd ra ad;", "status: SERVFAIL", resolved},
	} {
		run := func(args ...string) string {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil {
				t.Fatalf("%q: %v\n%s", args, err, out)
			}
			return string(out)
		}
		direct := run(client.command...)
		validated, refused := strings.Count(direct, client.validated), strings.Count(direct, client.refused)
		t.Logf("%s: %d answers validated, %d refused", client.name, validated, refused)
		if validated < 30 || refused < 4 {
			log, _ := os.ReadFile(dir + "/resolved.log")
			t.Fatalf("without Sotto:\n%s\n%s", direct, log)
		}
		for _, mode := range []string{"off", "validate"} {
			through := run(append([]string{e2e.Build(t), "exec", "-u", server, "--ca-file", ca, "--dnssec", mode, "--trust-anchor-file", anchor, "--"}, client.command...)...)
			a, b := strings.Split(direct, "## "), strings.Split(through, "## ")
			if len(a) != len(b) {
				t.Fatalf("%s, %s: %d answers: want %d\n%s", client.name, mode, len(b), len(a), through)
			}
			for i := range a {
				if bogus := strings.Contains(a[i], "badasig.test") || strings.Contains(a[i], "wrongds.test"); bogus && mode == "validate" {
					continue // SERVFAIL, which a client that validates reports differently
				}
				if comparable(a[i]) != comparable(b[i]) {
					t.Errorf("%s, %s: through exec:\n%s\ndirectly:\n%s", client.name, mode, b[i], a[i])
				}
			}
		}
	}
}

// root returns the digest of the root's key as BIND's configuration has it.
func root(zones []*zone) string {
	m := dsFields.FindStringSubmatch(zones[len(zones)-1].dsSet[0])
	return fmt.Sprintf("%s %s %s %q", m[1], m[2], m[3], m[4])
}

// comparable returns an answer without what changes, with its lines in order: records of an RRset
// may come in any.
func comparable(text string) string {
	lines := strings.Split(ttl.ReplaceAllString(changing.ReplaceAllString(text, ""), " IN "), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
