// SPDX-License-Identifier: Apache-2.0

package groups

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
)

// TestVPN: connections with a mark, a device or a source address leave by the other network, where
// the same address is another server; others do not. Without the mark's rule, the device or the
// address, nothing is sent another way, and the error names the setting.
func TestVPN(t *testing.T) {
	const server = "10.77.0.1" // in the LAN, and in the other network
	w := newWorld(t, false, server)
	tunnel := w.serveTLS(server+":853", "203.0.113.78", dnstest.CertOptions{Names: []string{e2e.UpstreamName}})
	w.Shell("ip rule add fwmark 0x64 lookup 100 && ip rule add from " + otherHost + " lookup 100 &&" +
		" ip route add default via " + other + " dev " + otherIf + " table 100 && ip route add 10.77.0.0/24 via " + other + " dev " + otherIf + " metric 5000")
	dir := t.TempDir()
	file, control := filepath.Join(dir, "sotto.toml"), filepath.Join(dir, "control.sock")
	config := fmt.Sprintf("listen = [\"127.0.0.1:5300\"]\ncontrol = %q\nupstream = [%q]\nca-file = %q\n", control, e2e.UpstreamAddr+"#"+e2e.UpstreamName, w.CAFile)
	groups := map[string]string{
		"mark": "mark = 0x64", "device": fmt.Sprintf("device = %q", otherIf), "source": fmt.Sprintf("source-address = [%q]", otherHost),
		"all":      fmt.Sprintf("mark = 0x64\ndevice = %q\nsource-address = [%q]", otherIf, otherHost),
		"nodevice": `device = "tun9"`, "nosource": `source-address = ["10.79.0.9"]`, "family": `source-address = ["fd00::9"]`,
	}
	for name, settings := range groups {
		config += fmt.Sprintf("[[group]]\nname = %q\nupstream = [%q]\nca-file = %q\n%s\n[[rule]]\nname = \"%s.example\"\nuse = %q\n",
			name, e2e.UpstreamAddr+"#"+e2e.UpstreamName, w.CAFile, settings, name, name)
	}
	e2e.WriteFile(t, file, config)
	p := w.Start("answering", "serve", "--config", file)
	ask := func(name string) string { return w.Dig(w.Host, nil, "-p", "5300", "@127.0.0.1", name) }
	for name, want := range map[string]string{
		"www.default.example": e2e.Sealed4, "www.mark.example": "203.0.113.78", "www.device.example": "203.0.113.78",
		"www.source.example": "203.0.113.78", "www.all.example": "203.0.113.78",
		"www.nodevice.example": `with device = "tun9": no such device: no such device on this machine`,
		"www.nosource.example": `with source-address = "10.79.0.9": cannot assign requested address`,
		"www.family.example":   "source-address has no IPv4 address, so nothing is sent to an IPv4 server",
	} {
		if out := ask(name); !strings.Contains(out, want) {
			t.Errorf("%s: want %s\n%s", name, want, out)
		}
	}
	checked, _, _ := w.Sotto("check", "--no-query", "--config", file)
	for _, name := range []string{"mark", "device", "source", "all"} {
		if !strings.Contains(checked, "upstream "+e2e.UpstreamAddr+"#"+e2e.UpstreamName+" of group "+name+": answered in ") {
			t.Errorf("check of group %s:\n%s", name, checked)
		}
	}
	for _, q := range tunnel.Log() {
		if got := q.Remote.Addr().String(); got != otherHost {
			t.Errorf("%s came from %s", q.Name, got)
		}
	}
	if n := len(tunnel.Log()); n != 8 { // four of check
		t.Errorf("%d queries went through the tunnel", n)
	}
	w.Signal(p, unix.SIGTERM)
	w.WaitExit(p)
}

// TestMarkWithoutCapability: a start, and a reload, with a mark that the process may not set are
// refused with the fix.
func TestMarkWithoutCapability(t *testing.T) {
	w := newWorld(t, false)
	dir := t.TempDir()
	file, control := filepath.Join(dir, "sotto.toml"), filepath.Join(dir, "control.sock")
	config := fmt.Sprintf("listen = [\"127.0.0.1:5300\"]\ncontrol = %q\nupstream = [%q]\nca-file = %q\n", control, e2e.UpstreamAddr+"#"+e2e.UpstreamName, w.CAFile)
	e2e.WriteFile(t, file, config)
	p := w.Start("answering", "serve", "--config", file)
	e2e.WriteFile(t, file, config+"mark = 7\n")
	out, errs, code := w.Sotto("reload", "--control", control)
	if text := out + errs; code == 0 || !strings.Contains(text, "set the firewall mark 0x7 of a socket: operation not permitted: it needs CAP_NET_ADMIN") {
		t.Errorf("reload: status %d\n%s", code, text)
	}
	if out := w.Dig(w.Host, nil, "-p", "5300", "@127.0.0.1", "www.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("after the refused reload:\n%s", out)
	}
	w.Signal(p, unix.SIGTERM)
	w.WaitExit(p)
}
