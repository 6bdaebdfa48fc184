// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const aGroup = "[[group]]\nname = \"work\"\nupstream = [\"192.0.2.1#dns.example\"]\n"

// TestInvalidSettings: every error in the file has its position, the name of the setting
// and a hint how to fix it.
func TestInvalidSettings(t *testing.T) {
	pair := clientPair(t)
	f := Options{Read: files{"c.pem": pair[0], "k.pem": pair[1], "other.pem": clientPair(t)[1],
		"locked.pem": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "names": "good.example\nb..ad.example\n", "empty": "# nothing\n", "hosts": "192.0.2.1 a.example\n", "bad hosts": "192.0.2.1 a\n192.0.2.2 b b..ad.example\n", "ca.pem": "no certificate", "blank": " \n"}.read}
	for _, tc := range []struct{ text, at, want string }{
		// TOML syntax.
		{"cache-mib = ", "1:12", "toml.io"},
		{"\ncache-mib = 1\ncache-mib = 2", "3:1", "already defined"},
		{"x", "1:1", "toml.io"},
		{"\xff", "1:1", "toml.io"},
		// Names and types of settings.
		{"upstreams = [\"quad9\"]", "1:1", `unknown setting "upstreams": see docs/sotto.toml (packages: /usr/share/doc/sotto/sotto.toml) for all settings`},
		{"[[group]]\nnam = \"a\"", "2:1", `unknown setting "nam"`},
		{"[[groups]]\nname = \"a\"", "1:3", `unknown setting "groups"`},
		{"group = [{name = \"a\", upstreams = []}]", "1:23", `unknown setting "upstreams"`},
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
		{"[cache-mib]\nx = 1", "1:2", "cache-mib is not a table"},
		{"[[group.x]]", "1:9", "group has no tables of its own"},
		{"cache-mib.x = 1", "1:1", "cache-mib has no keys of its own"},
		{"[[rule]]\nname = [1]\nuse = \"refuse\"", "2:9", `name = "text" or name = ["text", "more"]`},
		{"[[rule]]\nuse = [\"refuse\"]", "2:1", `write it as use = "text"`},
		{"cache-mib = 99999999999999999999", "1:13", "too large"},
		// Groups.
		{"upstream = []", "1:1", "no server"},
		{"upstream = [\"quad9\",\n\"dns.example\"]", "2:1", "write ADDRESS#dns.example"},
		{"upstream = [\"tls://dns.example\"]", "1:1", "dns.example cannot be resolved: add its address"},
		{"upstream = [\"tls://dns.example\"]\nbootstrap = [\"quad9\", \"dns.other\"]", "2:23", "write ADDRESS#dns.other"},
		{"upstream = [\"tls://dns.example\"]\nbootstrap = [\"tls://dns.other\"]", "1:1", "the bootstrap server tls://dns.other has no address"},
		{"upstream = [\"quad9\", \"quad9\"]", "1:1", "twice"},
		{"pins = [\"sha256/short\"]", "1:9", "base64"},
		{"policy = \"best\"", "1:10", "failover"},
		{"local-resolvers = \"drop\"", "1:19", "auto, keep or redirect"},
		{"local-names = [\"local\",\n\"<all>\"]", "2:1", "<private-reverse>"},
		{"local-names = [\".\"]", "1:16", "every name"},
		{"profile = \"lax\"", "1:11", "strict"},
		{"hedge-share = 0", "1:15", "out of range"},
		{"hedge-share = 1.5", "1:15", "out of range"},
		{"hedge-share = nan", "1:15", "out of range"},
		{"timeout = \"31s\"", "1:11", "want 500ms to 30s"},
		{"timeout = \"3\"", "1:11", "not a duration"},
		{"attempt-timeout = \"4s\"", "1:19", "longer than timeout (3.5s)"},
		{"silent-timeout = \"10ms\"", "1:18", "want 100ms to 30s"},
		{"rrset-order = \"random\"", "1:15", "rotate"},
		{"ca-file = \"nowhere.pem\"", "1:11", "nowhere.pem"},
		{"ca-file = \"ca.pem\"", "1:11", "contains no PEM certificate"},
		{"client-cert = \"c.pem\"", "1:15", "add client-key"},
		{"client-key = \"k.pem\"", "1:14", "add client-cert"},
		{"client-cert = \"nowhere.pem\"\nclient-key = \"k.pem\"", "1:15", "nowhere.pem"},
		{"client-cert = \"c.pem\"\nclient-key = \"nowhere.pem\"", "2:14", "nowhere.pem"},
		{"client-cert = \"k.pem\"\nclient-key = \"k.pem\"", "1:15", "k.pem contains no PEM certificate: add one"},
		{"client-cert = \"c.pem\"\nclient-key = \"c.pem\"", "2:14", "c.pem contains no PEM private key: add it"},
		{"client-cert = \"c.pem\"\nclient-key = \"locked.pem\"", "2:14", "decrypt it with 'openssl pkey'"},
		{"client-cert = \"c.pem\"\nclient-key = \"other.pem\"", "2:14", "name the key that belongs to the certificate"},
		{aGroup + "client-cert = \"c.pem\"\nclient-key = \"other.pem\"", "5:14", "name the key that belongs to the certificate"},
		{"[[group]]\nupstream = [\"quad9\"]", "1:3", "no name"},
		{"[[group]]\nname = \"a\"", "1:3", "has no servers"},
		{aGroup + aGroup, "5:8", "duplicate group"},
		{"[[group]]\nname = \"refuse\"\nupstream = [\"quad9\"]", "2:8", "is reserved"},
		{"[[group]]\nname = \"default\"\nupstream = [\"quad9\"]", "2:8", "is reserved"},
		{"[[group]]\nname = \"a b\"\nupstream = [\"quad9\"]", "2:8", "not a name for a group"},
		{aGroup + "policy = \"best\"", "4:10", "failover"},
		{aGroup + "policy = \"\"", "4:10", "failover"},
		{aGroup + "hedge-share = 0", "4:15", "out of range"},
		{aGroup + "pins = [\n\"sha256/short\"]", "5:1", "base64"},
		// Rules.
		{"[[rule]]\nname = \"a.example\"", "1:3", `add one, such as use = "refuse"`},
		{aGroup + "[[rule]]\nname = \"a.example\"\nuse = \"corp\"", "6:7", `unknown group "corp": the groups are default, work`},
		{"[[rule]]\nname = \"a.example\"\nuse = \"refuse\"\n[[rule]]\nname = [\"b.example\",\n  \"c..d\"]\nuse = \"refuse\"", "6:3", "c..d"},
		{"[[rule]]\nname = \"*.example\"\nuse = \"refuse\"", "2:8", "without a star"},
		{"[[rule]]\ntype = [\"A\", \"QUAD\"]\nuse = \"refuse\"", "2:14", "not a record type"},
		{"[[rule]]\nworkload = \"a[b]\"\nuse = \"refuse\"", "2:12", "classes"},
		{"[[rule]]\nnameserver = \"10.0.0.0/99\"\nuse = \"refuse\"", "2:14", "not an address or a network"},
		{"[[rule]]\nnameserver = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\nuse = \"refuse\"", "2:29", "bits set beyond its length"},
		{"[[rule]]\nname = []\nuse = \"refuse\"", "2:1", "it is empty"},
		{"[[rule]]\nnames-file = [\"nowhere\"]\nuse = \"refuse\"", "2:15", "nowhere"},
		{"[[rule]]\nnames-file = \"names\"\nuse = \"refuse\"", "2:14", "names: line 2:"},
		{"[[rule]]\nnames-file = \"empty\"\nuse = \"refuse\"", "2:14", "contains no name"},
		{"[[rule]]\nlists = []\nuse = \"null\"", "2:1", "it is empty"},
		{"[[rule]]\nlists = [\"https://a.example/\", \"http://a.example/\"]\nuse = \"null\"", "2:32", "does not start with https://"},
		{"[[rule]]\nlists = \"https:///x\"\nuse = \"null\"", "2:9", "names no host"},
		{"[[rule]]\nlists = \"https://a.example/%zz\"\nuse = \"null\"", "2:9", "is not a URL"},
		{"list-dir = \"lists\"", "1:12", "not an absolute path"},
		{"list-interval = \"1\"", "1:17", "with its unit"},
		{"list-interval = \"1m\"", "1:17", "want 10m0s"},
		{"[[rule]]\nrd = \"no\"\nuse = \"refuse\"", "2:6", "write it as rd = true or false"},
		{"[[rule]]\nopcode = [\"QUERY\", [4]]\nuse = \"refuse\"", "2:1", `opcode = "text" or opcode = ["text", 1]`},
		{"[[rule]]\nopcode = [4, 4.5]\nuse = \"refuse\"", "2:14", `opcode = "text" or opcode = ["text", 1]`},
		{"[[rule]]\nopcode = [\"QUERY\", \"ASK\"]\nuse = \"refuse\"", "2:20", "not an opcode"},
		{"[[rule]]\nopcode = 2\nuse = \"refuse\"", "2:10", "STATUS messages are always answered with NOTIMP"},
		{"[[rule]]\nopcode = []\nuse = \"refuse\"", "2:1", "it is empty"},
		{"[[rule]]\nopcode = \"NOTIFY\"\nrd = true\nuse = \"refuse\"", "3:6", "only QUERY has the flag RD"},
		{"[[rule]]\nname = \"a.example\"\nuse = \"\"", "1:3", "no action"},
		{"[[rule]]\nuse = \"null\"\naddress = \"192.0.2.1\"", "1:3", "more than one of use, address and hosts-file"},
		{"[[rule]]\naddress = \"192.0.2.1\"\nhosts-file = \"hosts\"", "1:3", "more than one of use, address and hosts-file"},
		{"[[rule]]\naddress = []", "2:1", "it is empty"},
		{"[[rule]]\naddress = [\"192.0.2.1\",\n  \"192.0.2\"]", "3:3", "is not an address"},
		{"[[rule]]\naddress = [\"192.0.2.1\", \"fe80::1%eth0\"]", "2:25", "remove %eth0"},
		{"[[rule]]\nhosts-file = [\"hosts\",\n  \"nowhere\"]", "3:3", "nowhere"},
		{"[[rule]]\nhosts-file = [\"hosts\",\n  \"names\"]", "3:3", `hosts-file: names:1: "good.example": it does not start with an address`},
		{"[[rule]]\nhosts-file = \"bad hosts\"", "2:14", `hosts-file: bad hosts:2: "b..ad.example": it has an empty label`},
		{"[[rule]]\nhosts-file = \"empty\"", "2:14", "it contains no name"},
		{"[[rule]]\nhosts-file = []", "2:1", "it is empty"},
		{"[[rule]]\nname = \"example\"\nhosts-file = \"hosts\"", "3:14", "remove name, names-file and lists"},
		{"[[group]]\nname = \"nxdomain\"\nupstream = [\"quad9\"]", "2:8", "is reserved"},
		{"[[group]]\nname = \"null\"\nupstream = [\"quad9\"]", "2:8", "is reserved"},
		{"rule = [{name = \"a..b\", use = \"refuse\"}]", "1:17", "a..b"},
		// Other settings.
		{"control-group = \"no such group\"", "1:17", "groupadd --system"},
		{"control-group = \"root\"", "1:17", "is the group of root"},
		{"control-group = \"0\"", "1:17", "is the group of root"},
		{"control-group = 986", "1:17", `write it as control-group = "text"`},
		{"cache-mib = -1", "1:13", "want 0"},
		{"min-ttl = \"30\"", "1:11", "with its unit"},
		{"min-ttl = \"2h\"\nmax-ttl = \"1h\"", "1:11", "1h"},
		{"min-ttl = \"30m\"\nmax-negative-ttl = \"1m\"", "1:11", "30m"},
		{"max-ttl = \"0s\"", "1:11", "want 1s"},
		{"serve-stale = \"-1s\"", "1:15", "want 0s"},
		{"drain = \"1h\"", "1:9", "want 0s to 10m"},
		{"drain = \"5\"", "1:9", "not a duration"},
		// The shared cache.
		{"shared-cache = \"192.0.2.6:6379\"", "1:16", "want redis://HOST:PORT"},
		{"shared-cache = \"redis://u:pass@127.0.0.1\"", "1:16", "shared-cache-password-file"},
		{"shared-cache = \"redis://127.0.0.1/x\"", "1:16", "number of a database"},
		{"shared-cache = \"redis://127.0.0.1:99999\"", "1:16", "want 1 to 65535"},
		{"shared-cache = \"redis://127.0.0.1:0\"", "1:16", "want 1 to 65535"},
		{"shared-cache = \"redis://192.0.2.6\"", "1:16", "plain text"},
		{"shared-cache = \"rediss://redis.example\"", "1:16", "not an IP address"},
		{"shared-cache = \"redis://127.0.0.1\"\ncache-mib = 0", "1:16", "set cache-mib"},
		{"shared-cache = \"redis://127.0.0.1\"\nshared-cache-secret-file = \"names\"", "2:28", "at least 32"},
		{"shared-cache = \"redis://127.0.0.1\"\nshared-cache-password-file = \"blank\"", "2:30", "is empty"},
		{"shared-cache = \"redis://127.0.0.1\"\nshared-cache-password-file = \"none\"", "2:30", "none"},
		{"shared-cache = \"rediss://192.0.2.6\"\nshared-cache-ca-file = \"ca.pem\"", "2:24", "no PEM certificate"},
		{"shared-cache-timeout = \"1s\"", "1:24", "want 1ms to 50ms"},
		{"shared-cache-max-answer = 100", "1:27", "want 512 to 65535"},
		{"max-queries = 0", "1:15", "want 1"},
		{"max-tcp = 99999999", "1:11", "want 1"},
		{"max-relays = 0", "1:14", "want 1"},
		{"log-level = \"loud\"", "1:13", "want debug, info, warn or error"},
		{"query-log = \"queries\"", "1:13", "not an absolute path"},
		{"query-log-sample = 0", "1:20", "want 1 (every query)"},
		{"dnstap-file = \"taps\"", "1:15", "not an absolute path"},
		{"query-log = \"/a\"\ndnstap-file = \"/a\"", "2:15", "also the file of query-log"},
		{"dnstap-socket = \"/" + strings.Repeat("x", 107) + "\"", "1:17", "at most 107 bytes"},
		{"dnstap-socket = \"tap.sock\"", "1:17", "not an absolute path"},
		{"dnstap-socket = \"stderr\"", "1:17", "not an absolute path"},
		{"dnstap-file = \"stderr\"", "1:15", "not an absolute path"},
		{"control = \"control.sock\"", "1:11", "not an absolute path"},
		{"control = \"/" + strings.Repeat("x", 107) + "\"", "1:11", "at most 107 bytes"},
		{"probe-socket = \"probe.sock\"", "1:16", "not an absolute path"},
		{"probe-socket = \"/" + strings.Repeat("x", 107) + "\"", "1:16", "at most 107 bytes"},
		{"dnstap-messages = [\"client\", \"resolver\"]", "1:30", "want client or forwarder"},
		{"dnstap-file = \"/a\"\ndnstap-messages = []", "2:1", "it is empty"},
		{"proxy = \"socks5://proxy.example:1080\"", "1:9", "not an IP address and a port"},
		{"proxy = \"https://192.0.2.8:443\"", "1:9", "use http://"},
		{"dnstap-tls = \"udp\"", "1:14", "want dot or tcp"},
		{"listen = []", "1:1", "no address to listen on"},
		{"listen = [\":53\", \"localhost:53\"]", "1:18", "not an IP address"},
		{"ports = [53, 70000]", "1:14", "not a port number"},
		{"prefix4 = \"198.19.0.1/16\"", "1:11", "want one like 198.19.0.0/16"},
		{"prefix6 = \"198.19.0.0/16\"", "1:11", "want one like fd73:6f74:746f::/64"},
		{"prefix6 = \"::ffff:198.19.0.0/112\"", "1:11", "want one like fd73:6f74:746f::/64"},
		{"prefix4 = \"198.19.0.0/25\"", "1:11", "want /24"},
		{"prefix6 = \"fd73:6f74:746f::/113\"", "1:11", "want /112"},
		{"ports = [1" + strings.Repeat(", 53", 16) + "]", "1:1", "there are 17: want at most 16"},
	} {
		_, _, err := planText(tc.text, f)
		if err == nil || !strings.HasPrefix(err.Error(), "sotto.toml:"+tc.at+": ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q:\n  %v\n  want position %s and %q", tc.text, err, tc.at, tc.want)
		}
	}
}

// TestLargestSeal: the longest prefixes and the largest number of ports are valid.
func TestLargestSeal(t *testing.T) {
	_, p, err := planText("prefix4 = \"198.19.0.0/24\"\nprefix6 = \"fd73:6f74:746f::/112\"\nports = [1"+strings.Repeat(", 53", 15)+"]", Options{Read: files{}.read})
	if err != nil || p.Prefix4.Bits() != 24 || p.Prefix6.Bits() != 112 || len(p.Ports) != 16 {
		t.Errorf("%s, %s, %d ports, %v", p.Prefix4, p.Prefix6, len(p.Ports), err)
	}
}

// TestLogTargets: only the query log can be written to stderr, and the longest path of a socket is valid.
func TestLogTargets(t *testing.T) {
	longest := "/" + strings.Repeat("x", 106)
	_, p, err := planText(fmt.Sprintf("query-log = \"stderr\"\ncontrol = %q\nprobe-socket = %q\ndnstap-socket = %q", longest, longest, longest), Options{Read: files{}.read})
	if err != nil || p.QueryLog.File != QueryLogStderr || p.Control != longest {
		t.Errorf("%q, %q, %v", p.QueryLog.File, p.Control, err)
	}
	if _, p, err := planText(`control = "off"`, Options{Read: files{}.read}); err != nil || p.Control != "" {
		t.Errorf("%q, %v", p.Control, err)
	}
}

// TestServeRejectsNameserverRules: rules that `serve` could never match, or whose action it
// cannot perform, are errors for `serve` only.
func TestServeRejectsNameserverRules(t *testing.T) {
	for text, want := range map[string]string{
		"[[rule]]\nname = \"a.example\"\nuse = \"plain\"":                                 "sotto.toml:3:7: use: 'sotto serve' does not know",
		"[[rule]]\nnameserver = \"10.0.0.0/8\"\nuse = \"refuse\"":                         "sotto.toml:2:14: nameserver: 'sotto serve' does not know the nameserver",
		"[[rule]]\nname = \"a.example\"\nworkload = [\"app.slice/**\"]\nuse = \"refuse\"": "sotto.toml:3:1: workload: 'sotto serve' does not know the workload",
	} {
		if _, _, err := planText(text, Options{Serve: true, Read: files{}.read}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q for serve: %v: want %q", text, err, want)
		}
		if _, _, err := planText(text, Options{Read: files{}.read}); err != nil {
			t.Errorf("%q for run: %v", text, err)
		}
	}
}

var positioned = regexp.MustCompile(`^sotto\.toml:[1-9][0-9]*:[1-9][0-9]*: .`)

// FuzzSettings: no text causes a panic, every error has a position, and every rule of a plan
// uses a group of the plan or an action.
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
	f.Add("[[rule]]\nhosts-file = \"hosts\"\nopcode = 5\n[[rule]]\naddress = \"::1\"\nrd = true\n")
	f.Add("[group]\n[rule]\n[[rule.x]]\na.b.c = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, serve := range []bool{false, true} {
			s, p, err := planText(text, Options{Serve: serve, Read: files{"names": "a.example\n", "hosts": "::1 a.example\n"}.read})
			if err != nil {
				if !positioned.MatchString(err.Error()) {
					t.Errorf("%q has no position", err)
				}
				continue
			}
			if len(p.Rules.Uses) != len(s.Rules) || len(p.Rules.Records) != len(s.Rules) || len(p.Groups) != len(s.Groups)+1 {
				t.Errorf("%d groups and %d rules of %d and %d", len(p.Groups), len(p.Rules.Uses), len(s.Groups), len(s.Rules))
			}
			for i, use := range p.Rules.Uses {
				if (use == "") != (p.Rules.Records[i] != nil) {
					t.Errorf("a rule uses %q, with the records %v", use, p.Rules.Records[i])
				}
				if _, ok := p.Groups[use]; !ok && use != "" && !slices.Contains(actionNames, use) {
					t.Errorf("a rule uses %q", use)
				}
			}
		}
	})
}

// TestTimeouts: a group has its own timeouts or the defaults, not those of the default group,
// and a default that is longer than the timeout is shortened.
func TestTimeouts(t *testing.T) {
	_, p, err := planText("timeout = \"1s\"\nsilent-timeout = \"900ms\"\n"+aGroup+"attempt-timeout = \"2s\"\n", Options{Read: files{}.read})
	if err != nil {
		t.Fatal(err)
	}
	def := p.Groups[DefaultGroup].Config
	if def.Timeout != time.Second || def.AttemptTimeout != time.Second || def.SilentTimeout != 900*time.Millisecond {
		t.Errorf("the default group: %v, %v, %v", def.Timeout, def.AttemptTimeout, def.SilentTimeout)
	}
	for name, g := range p.Groups {
		if name == DefaultGroup {
			continue
		}
		if g.Config.Timeout != 3500*time.Millisecond || g.Config.AttemptTimeout != 2*time.Second || g.Config.SilentTimeout != 2*time.Second {
			t.Errorf("%s: %v, %v, %v", name, g.Config.Timeout, g.Config.AttemptTimeout, g.Config.SilentTimeout)
		}
	}
	_, other, err := planText("timeout = \"2s\"\nsilent-timeout = \"900ms\"\n", Options{Read: files{}.read})
	if err != nil || other.Groups[DefaultGroup].Key == p.Groups[DefaultGroup].Key {
		t.Errorf("groups of different timeouts have the same key, %v", err)
	}
}
