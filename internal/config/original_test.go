// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	"sotto/forwarder/upstream/original"
)

func TestOriginal(t *testing.T) {
	plan := func(text string) map[string]Group {
		t.Helper()
		_, p, err := planText(text, Options{Read: files{}.read})
		if err != nil {
			t.Fatal(err)
		}
		return p.Groups
	}
	g := plan("upstream = [\"original\"]\n")[DefaultGroup]
	if g.Original == nil || *g.Original != (Original{Discovery: original.WithTLS}) || g.Config.Servers != nil {
		t.Errorf("default: %+v", g)
	}
	const chosen = "[[group]]\nname = \"chosen\"\nupstream = [\"original\"]\noriginal-discovery = \"ddr\"\n"
	g = plan(chosen)["chosen"]
	if *g.Original != (Original{Discovery: original.WithDDR, Fallback: DefaultGroup}) {
		t.Errorf("chosen: %+v", g.Original)
	}
	if with := plan("upstream = [\"192.0.2.1\"]\n" + chosen)["chosen"]; with.Key == g.Key {
		t.Error("the key does not depend on the fallback")
	}
	if g := plan(chosen + "original-fallback = \"fail\"\n")["chosen"]; g.Original.Fallback != "" {
		t.Errorf("fail: %+v", g.Original)
	}
	for text, want := range map[string]string{
		`upstream = ["original", "quad9"]`:                                     `sotto.toml:1:1: upstream: "original" has to be the only upstream of its group`,
		"upstream = [\"original\"]\noriginal-discovery = \"dns\"":              `sotto.toml:2:22: original-discovery: "dns": want "known", "tls" or "ddr"`,
		"upstream = [\"original\"]\noriginal-fallback = \"work\"":              `sotto.toml:2:21: original-fallback: there is no group "work": want one of default, or "fail"`,
		"upstream = [\"original\"]\noriginal-fallback = \"default\"":           `has the upstream "original" itself`,
		"upstream = [\"original\"]\npolicy = \"random\"":                       "sotto.toml:2:10: policy: it has no effect",
		"upstream = [\"original\"]\nsplit = \"by-name\"":                       "sotto.toml:2:9: split: it has no effect",
		"upstream = [\"original\"]\npins = [\"sha256/x\"]":                     "sotto.toml:2:1: pins: they are those of one server",
		"upstream = [\"original\"]\nclient-cert = \"/etc/cert.pem\"":           "sotto.toml:2:15: client-cert: with",
		"[[group]]\nname = \"fail\"\nupstream = [\"192.0.2.1\"]":               `"fail" is reserved`,
		"upstream = [\"192.0.2.1\"]\nsplit = \"by-name\"\npolicy = \"hedged\"": "sotto.toml:3:10: policy: hedged has no effect with split",
		"split = \"names\"": `sotto.toml:1:9: split: "names": want "off", "by-name" or "by-name-strict"`,
	} {
		if _, _, err := planText(text, Options{Read: files{}.read}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %q", text, err, want)
		}
	}
	if _, _, err := planText(`upstream = ["original"]`, Options{Serve: true, Read: files{}.read}); err == nil || !strings.Contains(err.Error(), "'sotto serve' does not know: use 'sotto run'") {
		t.Errorf("serve: %v", err)
	}
}

// TestOriginalProxy: with a proxy nothing is sent to nameservers but what it carries.
func TestOriginalProxy(t *testing.T) {
	const proxied = "proxy = \"socks5://user:secret@192.0.2.8:1080\"\n"
	const chosen = "upstream = [\"original\"]\noriginal-discovery = \"ddr\"\n"
	_, _, err := planText(proxied+chosen, Options{Read: files{}.read})
	const want = `sotto.toml:3:22: original-discovery: "ddr" asks nameservers in plain DNS, which a proxy does not carry: use "tls" or "known", or remove proxy`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	for _, text := range []string{
		proxied + "upstream = [\"original\"]\n",
		proxied + "[[group]]\nname = \"chosen\"\n" + chosen, // the proxy is that of the default group
	} {
		if _, _, err := planText(text, Options{Read: files{}.read}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestSplitKey: the distribution is that of the installation.
func TestSplitKey(t *testing.T) {
	keys := map[string]bool{}
	for _, id := range []string{"", "short\n", strings.Repeat("a", 32) + "\n", strings.Repeat("b", 32) + "\n"} {
		f := files{}
		if id != "" {
			f[machineID] = id
		}
		_, p, err := planText(`split = "by-name"`, Options{Read: f.read})
		if err != nil {
			t.Fatal(err)
		}
		g := p.Groups[DefaultGroup]
		if missing := len(id) < 32; (len(g.warnings) == 1) != missing || g.Config.Split.Strict {
			t.Errorf("%q: warnings %v", id, g.warnings)
		}
		keys[string(g.Config.Split.Key[:])] = true
	}
	if len(keys) != 3 {
		t.Errorf("%d keys", len(keys))
	}
}
