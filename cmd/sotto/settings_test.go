// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sotto/intercept"
)

const aGroup = "[[group]]\nname = \"work\"\nupstream = [\"192.0.2.1#dns.example\"]\n"

// TestMistakes: every mistake in the file is told with its place, the setting, and
// the mend.
func TestMistakes(t *testing.T) {
	f := planFor{read: files{"names": "good.example\nb..ad.example\n", "empty": "# nothing\n", "ca.pem": "no certificate"}.read}
	for _, tc := range []struct{ text, at, want string }{
		// Of TOML itself.
		{"cache-mib = ", "1:12", "toml.io"},
		{"\ncache-mib = 1\ncache-mib = 2", "3:1", "already defined"},
		{"x", "1:1", "toml.io"},
		{"\xff", "1:1", "toml.io"},
		// Of what there is, and its kind.
		{"upstreams = [\"quad9\"]", "1:1", `no setting "upstreams"`},
		{"[[group]]\nnam = \"a\"", "2:1", `no setting "nam"`},
		{"[[groups]]\nname = \"a\"", "1:3", `no setting "groups"`},
		{"group = [{name = \"a\", upstreams = []}]", "1:23", `no setting "upstreams"`},
		{"cache-mib = \"much\"", "1:13", "write it as cache-mib = 1"},
		{"cache-mib = 1.5", "1:13", "write it as cache-mib = 1"},
		{"prefetch = 1", "1:12", "write it as prefetch = true or false"},
		{"upstream = \"quad9\"", "1:12", `write it as upstream = ["text", "more"]`},
		{"upstream = [\"quad9\",\n  1]", "2:3", `write it as upstream = ["text", "more"]`},
		{"ports = [\"53\"]", "1:10", "write it as ports = [1, 2]"},
		{"min-ttl = 30", "1:11", `write it as min-ttl = "text"`},
		{"prefix4 = 1979-05-27", "1:11", `write it as prefix4 = "text"`},
		{"group = 1", "1:9", "write it as [[group]]"},
		{"[group]\nname = \"a\"", "1:2", "write [[group]]"},
		{"[cache-mib]\nx = 1", "1:2", "cache-mib is no table"},
		{"[[group.x]]", "1:9", "group has no tables of its own"},
		{"cache-mib.x = 1", "1:1", "cache-mib has no keys of its own"},
		{"[[rule]]\nname = [1]\nuse = \"refuse\"", "2:9", `name = "text" or name = ["text", "more"]`},
		{"[[rule]]\nuse = [\"refuse\"]", "2:1", `write it as use = "text"`},
		{"cache-mib = 99999999999999999999", "1:13", "too large"},
		// Of groups.
		{"upstream = []", "1:1", "it names nobody"},
		{"upstream = [\"quad9\",\n\"dns.example\"]", "2:1", "write ADDRESS#dns.example"},
		{"upstream = [\"quad9\", \"quad9\"]", "1:1", "twice"},
		{"pins = [\"sha256/short\"]", "1:9", "base64"},
		{"policy = \"best\"", "1:10", "failover"},
		{"profile = \"lax\"", "1:11", "strict"},
		{"hedge-share = 0", "1:15", "no share"},
		{"hedge-share = 1.5", "1:15", "no share"},
		{"hedge-share = nan", "1:15", "no share"},
		{"ca-file = \"nowhere.pem\"", "1:11", "nowhere.pem"},
		{"ca-file = \"ca.pem\"", "1:11", "holds no PEM certificate"},
		{"[[group]]\nupstream = [\"quad9\"]", "1:3", "it has no name"},
		{"[[group]]\nname = \"a\"", "1:3", "has no servers"},
		{aGroup + aGroup, "5:8", "there is another group"},
		{"[[group]]\nname = \"refuse\"\nupstream = [\"quad9\"]", "2:8", "means something else"},
		{"[[group]]\nname = \"default\"\nupstream = [\"quad9\"]", "2:8", "means something else"},
		{"[[group]]\nname = \"a b\"\nupstream = [\"quad9\"]", "2:8", "no name for a group"},
		{aGroup + "policy = \"best\"", "4:10", "failover"},
		{aGroup + "policy = \"\"", "4:10", "failover"},
		{aGroup + "hedge-share = 0", "4:15", "no share"},
		{aGroup + "pins = [\n\"sha256/short\"]", "5:1", "base64"},
		// Of rules.
		{"[[rule]]\nname = \"a.example\"", "1:3", "add use"},
		{aGroup + "[[rule]]\nname = \"a.example\"\nuse = \"corp\"", "6:7", `there is no group "corp": the groups are default, work`},
		{"[[rule]]\nname = \"a.example\"\nuse = \"refuse\"\n[[rule]]\nname = [\"b.example\",\n  \"c..d\"]\nuse = \"refuse\"", "6:3", "c..d"},
		{"[[rule]]\nname = \"*.example\"\nuse = \"refuse\"", "2:8", "without a star"},
		{"[[rule]]\ntype = [\"A\", \"QUAD\"]\nuse = \"refuse\"", "2:14", "not a record type"},
		{"[[rule]]\nworkload = \"a[b]\"\nuse = \"refuse\"", "2:12", "classes"},
		{"[[rule]]\nnameserver = \"10.0.0.0/99\"\nuse = \"refuse\"", "2:14", "no address and no network"},
		{"[[rule]]\nnameserver = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\nuse = \"refuse\"", "2:29", "bits set beyond its length"},
		{"[[rule]]\nname = []\nuse = \"refuse\"", "2:1", "it is empty"},
		{"[[rule]]\nnames-file = [\"nowhere\"]\nuse = \"refuse\"", "2:15", "nowhere"},
		{"[[rule]]\nnames-file = \"names\"\nuse = \"refuse\"", "2:14", "names: line 2:"},
		{"[[rule]]\nnames-file = \"empty\"\nuse = \"refuse\"", "2:14", "no name in it"},
		{"rule = [{name = \"a..b\", use = \"refuse\"}]", "1:17", "a..b"},
		// Of the rest.
		{"cache-mib = -1", "1:13", "want 0"},
		{"min-ttl = \"30\"", "1:11", "with its unit"},
		{"min-ttl = \"2h\"\nmax-ttl = \"1h\"", "1:11", "1h"},
		{"min-ttl = \"30m\"\nmax-negative-ttl = \"1m\"", "1:11", "30m"},
		{"max-ttl = \"0s\"", "1:11", "want 1s"},
		{"serve-stale = \"-1s\"", "1:15", "want 0s"},
		{"max-queries = 0", "1:15", "want 1"},
		{"max-tcp = 99999999", "1:11", "want 1"},
		{"log-level = \"loud\"", "1:13", "want debug, info, warn or error"},
		{"listen = []", "1:1", "no address to listen on"},
		{"listen = [\":53\", \"localhost:53\"]", "1:18", "no IP address"},
		{"ports = [53, 70000]", "1:14", "no port number"},
		{"prefix4 = \"198.19.0.1/16\"", "1:11", "want one like 198.19.0.0/16"},
		{"prefix6 = \"198.19.0.0/16\"", "1:11", "want one like fd73:6f74:746f::/64"},
	} {
		_, _, err := planText(tc.text, f)
		if err == nil || !strings.HasPrefix(err.Error(), "sotto.toml:"+tc.at+": ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q:\n  %v\n  want it at %s and to say %q", tc.text, err, tc.at, tc.want)
		}
	}
}

// TestServeRejectsNameserverRules: rules that could never decide in `serve`, or that it
// could not follow, are mistakes there and nowhere else.
func TestServeRejectsNameserverRules(t *testing.T) {
	for text, want := range map[string]string{
		"[[rule]]\nname = \"a.example\"\nuse = \"plain\"":                                 "sotto.toml:3:7: use: 'sotto serve' does not know",
		"[[rule]]\nnameserver = \"10.0.0.0/8\"\nuse = \"refuse\"":                         "sotto.toml:2:14: nameserver: 'sotto serve' knows no nameserver",
		"[[rule]]\nname = \"a.example\"\nworkload = [\"app.slice/**\"]\nuse = \"refuse\"": "sotto.toml:3:1: workload: 'sotto serve' knows no workload",
	} {
		if _, _, err := planText(text, planFor{serve: true, read: files{}.read}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q for serve: %v: want %q", text, err, want)
		}
		if _, _, err := planText(text, planFor{read: files{}.read}); err != nil {
			t.Errorf("%q for run: %v", text, err)
		}
	}
}

// TestFlagsOverFile: what a flag says is not the file's, in effect and in errors.
func TestFlagsOverFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sotto.toml")
	write(t, path, "upstream = [\"quad9\"]\nlisten = [\"127.0.0.1:5300\"]\npolicy = \"random\"\ncache-mib = -1\n")
	for _, tc := range []struct {
		args   string
		status int
		want   string
	}{
		{"", exitFailure, path + ":4:13: cache-mib"},
		{"--cache-mib 3", 0, "in order: " + path},
		{"--cache-mib -2", exitUsage, "sotto: cache-mib: it is -2"},
		{"--cache-mib 3 --upstream nobody.example", exitUsage, "sotto: upstream: "},
		{"--cache-mib 3 --policy best", exitUsage, "sotto: policy: "},
		{"--cache-mib 3 --profile lax", exitUsage, "sotto: profile: "},
	} {
		stdout, stderr, status := call(t, append([]string{"serve", "--check", "--config", path}, strings.Fields(tc.args)...)...)
		if status != tc.status || !strings.Contains(stdout+stderr, tc.want) {
			t.Errorf("%s: status %d, %q %q: want %d and %q", tc.args, status, stdout, stderr, tc.status, tc.want)
		}
	}
}

// TestCheckBeginsNothing: --check neither listens nor needs root, and warns of what
// is odd.
func TestCheckBeginsNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sotto.toml")
	write(t, path, fmt.Sprintf("control = %q\n[[rule]]\nuse = \"refuse\"\n[[rule]]\nname = \"late.example\"\nuse = \"nodata\"\n", filepath.Join(dir, "control.sock")))
	stdout, stderr, status := call(t, "serve", "--check", "--config", path, "--listen", "192.0.2.99:53")
	if status != 0 || !strings.Contains(stdout, "2 rules") || !strings.Contains(stderr, path+":4:3: rule: it never decides") {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("it made %v, %v", left, err)
	}
}

var positioned = regexp.MustCompile(`^sotto\.toml:[1-9][0-9]*:[1-9][0-9]*: .`)

// FuzzSettings: no text crashes the reading, and every mistake has its place.
func FuzzSettings(f *testing.F) {
	text, err := os.ReadFile(reference)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	for _, example := range examples(string(text)) {
		f.Add(example)
	}
	f.Add(aGroup + "[[rule]]\nnames-file = \"names\"\nuse = \"work\"\n")
	f.Add("rule = [{name = \"a..b\", use = \"refuse\"}]\ngroup = [{name = \"x\", upstream = [\"::1\"]}]")
	f.Add("[group]\n[rule]\n[[rule.x]]\na.b.c = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, serve := range []bool{false, true} {
			s, p, err := planText(text, planFor{serve: serve, read: files{"names": "a.example\n"}.read})
			if err != nil {
				if !positioned.MatchString(err.Error()) {
					t.Errorf("%q has no place", err)
				}
				continue
			}
			table := table{}
			for name := range p.groups {
				table[name] = &member{key: name}
			}
			if newRouter(p.rules, table) == nil || len(p.rules.uses) != len(s.Rules) || len(p.groups) != len(s.Groups)+1 {
				t.Errorf("%d groups and %d rules of %d and %d", len(p.groups), len(p.rules.uses), len(s.Groups), len(s.Rules))
			}
		}
	})
}

// TestGuardedHost: who seals the root cgroup guards the host, and nobody else does.
func TestGuardedHost(t *testing.T) {
	root, err := intercept.CgroupRoot()
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	texts := map[string]bool{"": true, `cgroups = ["/"]`: true, fmt.Sprintf("cgroups = [%q]", root): true}
	if own, err := intercept.OwnCgroup(); err == nil && own != root {
		texts[fmt.Sprintf("cgroups = [%q]", own)] = false
	}
	for text, want := range texts {
		s, p, err := planText(text, planFor{read: files{}.read})
		if err != nil {
			t.Fatal(err)
		}
		if cfg, err := sealConfig(s, p); err != nil || cfg.GuardHost != want {
			t.Errorf("%q: the host is guarded: %v, want %v; %v", text, cfg.GuardHost, want, err)
		}
	}
}
