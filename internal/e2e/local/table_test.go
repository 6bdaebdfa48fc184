// SPDX-License-Identifier: Apache-2.0

package local

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

// machine is a machine with local resolvers.
type machine struct {
	name    string
	start   func(w *world, t *testing.T)
	servers []string // nameservers of resolv.conf
	sources string   // of hosts in nsswitch.conf

	// Set where glibc asks the resolver by a socket below /run: a seal of cgroups has to cover it.
	sockets bool
	// The programs run in a container on the bridge.
	container bool
}

// resolvedMachine is a machine with systemd-resolved as the stub.
var resolvedMachine = machine{name: "systemd-resolved", servers: []string{"127.0.0.53"}, sources: "files dns",
	start: func(w *world, t *testing.T) { w.resolved(t, false) }}

// machineOfAllKinds has three local resolvers.
var machineOfAllKinds = machine{name: "three kinds", servers: []string{"127.0.0.53", "::1", bridge4}, sources: "files dns",
	start: func(w *world, t *testing.T) { w.resolved(t, false); w.unbound(t, "::1"); w.dnsmasq(t, bridge4) }}

var machines = []machine{
	{name: "dnsmasq on 127.0.0.1", servers: []string{"127.0.0.1"}, sources: "files dns",
		start: func(w *world, t *testing.T) { w.dnsmasq(t, "127.0.0.1") }},
	{name: "unbound on ::1", servers: []string{"::1"}, sources: "files dns",
		start: func(w *world, t *testing.T) { w.unbound(t, "::1") }},
	resolvedMachine,
	{name: "dnsmasq on a bridge", servers: []string{bridge4}, sources: "files dns",
		start: func(w *world, t *testing.T) { w.dnsmasq(t, bridge4) }},
	{name: "dnsmasq on a bridge, from a container", servers: []string{bridge4}, sources: "files dns", container: true,
		start: func(w *world, t *testing.T) { w.dnsmasq(t, bridge4) }},
	// musl asks all of them at once and takes the first answer: a nameserver elsewhere would
	// not know local names.
	machineOfAllKinds,
	{name: "nscd", servers: []string{"127.0.0.1"}, sources: "files dns", sockets: true,
		start: func(w *world, t *testing.T) { w.dnsmasq(t, "127.0.0.1"); w.nscd(t, "127.0.0.1") }},
	{name: "nss-resolve", servers: []string{"127.0.0.53"}, sources: "resolve [!UNAVAIL=return] dns", sockets: true,
		start: func(w *world, t *testing.T) { w.resolved(t, true) }},
}

// on makes a world, starts the local resolvers in it, and watches for plain packets until the
// end of the test.
func (m machine) on(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.programs = w.Host
	if b := w.bridge(t); m.container {
		var err error
		if w.programs, err = w.Lab.Container(b, "container"); err != nil {
			t.Fatal(err)
		}
	}
	w.serveHTTP(t)
	w.Watch()
	m.start(w, t)
	return w
}

// prefix returns the start of a command line, for programs with the nameservers and sources of m.
func (m machine) prefix(t *testing.T, w *world) []string {
	t.Helper()
	prefix := w.nsswitch(t, m.sources, m.servers...)
	if strings.Contains(m.sources, "resolve") {
		prefix = append(prefix, "env", "LD_LIBRARY_PATH="+nssResolve(t))
	}
	return prefix
}

// TestLocalExec resolves under exec on machines with each kind of local resolver: public names over
// TLS, local names at the local resolver. No plain packet leaves the host.
func TestLocalExec(t *testing.T) {
	list := clients(t)
	for _, m := range machines {
		if m.container {
			continue // exec runs in the network namespace of the host
		}
		t.Run(m.name, func(t *testing.T) {
			w := m.on(t)
			checkClients(t, list, w.Exec, m.prefix(t, w)...)
			w.NothingLeft()
		})
	}
	t.Run("systemd-resolved inside", func(t *testing.T) {
		m := resolvedMachine
		var inside []string
		m.start = func(w *world, t *testing.T) { inside = w.resolvedCommand(t, false) }
		w := m.on(t)
		script := quote(inside) + ` & until dig +tries=1 +timeout=1 +short @127.0.0.53 printer | grep -qx ` + local4 +
			`; do kill -0 $! || exit; done; "$@"; kill $!; wait`
		checkClients(t, list, w.Exec, append(m.prefix(t, w), "sh", "-c", script, "sh")...)
		w.NothingLeft()
	})
}

// TestLocalRun is TestLocalExec with a seal of a running cgroup.
func TestLocalRun(t *testing.T) {
	list := clients(t)
	check := func(name string, m machine, inside bool) {
		t.Run(name, func(t *testing.T) {
			w := m.on(t)
			g := w.Cgroup("sealed")
			groups := []*netlab.Cgroup{g}
			if inside {
				groups = append(groups, w.resolvers)
			}
			p := w.Start("msg=sealed", w.RunArgs(groups...)...)
			checkClients(t, list, w.in(w.programs, g), m.prefix(t, w)...)
			w.Stop(p)
			w.NothingLeft()
		})
	}
	for _, m := range machines {
		check(m.name, m, m.sockets)
	}
	check("systemd-resolved inside", resolvedMachine, true)
}

// wholeHost skips the test where the whole machine may not be sealed.
func wholeHost(t *testing.T) {
	t.Helper()
	if os.Getenv(e2e.WholeHostVar) == "" {
		t.Skipf("skipped: it seals the root cgroup; %s=1 allows that, on a machine for tests", e2e.WholeHostVar)
	}
}

// sealHost seals the whole host with additional arguments, on a machine with these nameservers.
func (w *world) sealHost(servers []string, args ...string) *e2e.Process {
	w.T.Helper()
	args = slices.Concat(w.ResolvConf(servers...), []string{w.Program.Path}, w.RunArgs(), args)
	p, err := w.LaunchCommand(w.Host.Command(w.T.Context(), nil, args[0], args[1:]...))
	if err != nil {
		w.T.Fatal(err)
	}
	w.WaitReady(p, "msg=sealed")
	return p
}

const uncovered = "queries to a resolver on this machine are left alone"

// TestWholeHost is TestLocalExec with a seal of the whole host, which covers the local resolvers:
// queries to them are left alone, and theirs are sealed.
func TestWholeHost(t *testing.T) {
	wholeHost(t)
	list := clients(t)
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			w := m.on(t)
			p := w.sealHost(m.servers, "--log-queries")
			g := w.Cgroup("programs")
			checkClients(t, list, w.in(w.programs, g), m.prefix(t, w)...)
			w.Stop(p)
			if log := p.Log(); !strings.Contains(log, queryFrom(w.resolvers)) || strings.Contains(log, queryFrom(g)) {
				t.Errorf("want queries of the resolver only:\n%s", log)
			}
			if log := p.Log(); strings.Contains(log, uncovered) {
				t.Errorf("a warning although the seal covers the resolver:\n%s", log)
			}
			w.NothingLeft()
		})
	}
}

// queryFrom returns the part of the log of a query that names its workload.
func queryFrom(g *netlab.Cgroup) string { return "workload=/" + filepath.Base(g.Path) }

// TestWholeHostRedirect is TestWholeHost with resolvers in an excluded cgroup. Queries to them
// are redirected.
func TestWholeHostRedirect(t *testing.T) {
	wholeHost(t)
	list := clients(t)
	for _, m := range machines {
		if m.sockets {
			continue // clients in a whole-host seal see the sockets below /run
		}
		t.Run(m.name, func(t *testing.T) {
			w := m.on(t)
			p := w.sealHost(m.servers, "--exclude", w.resolvers.Path, "--local-resolvers", "redirect")
			checkClients(t, list, w.in(w.programs, w.Cgroup("programs")), m.prefix(t, w)...)
			w.Stop(p)
			w.NothingLeft()
		})
	}
}

// TestWholeHostExcluded: queries to a resolver in an excluded cgroup are left alone by default, and
// its own leave in plain text, as the exclusion says. A warning at the start names its address and
// cgroup.
func TestWholeHostExcluded(t *testing.T) {
	wholeHost(t)
	for _, m := range machines {
		if m.sockets || m.container {
			continue // the same resolvers as others
		}
		t.Run(m.name, func(t *testing.T) {
			w := newWorld(t)
			w.bridge(t)
			m.start(w, t)
			p := w.sealHost(m.servers, "--exclude", w.resolvers.Path)
			for _, s := range m.servers {
				w.WaitLog(p, "nameserver="+s+" cgroup=/"+filepath.Base(w.resolvers.Path))
				if got := w.Dig(w.Host, nil, "+short", "@"+s, publicName); strings.TrimSpace(got) != e2e.Plain4 {
					t.Errorf("@%s: %q, want the answer of the resolver's own nameserver", s, got)
				}
			}
			w.CheckSealed("other programs", nil)
			w.Stop(p)
			w.NothingLeft()
		})
	}
}
