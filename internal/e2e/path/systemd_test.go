// SPDX-License-Identifier: Apache-2.0

package path

import (
	"net/netip"
	"strings"
	"testing"

	"sotto/intercept/filters/filterstest"
	"sotto/internal/netlab"
)

// The filters of these tests are not systemd's: filterstest attaches programs that have the
// names of systemd's and do the same for constant lists, because a container has no systemd.

// prefixes parses the addresses and prefixes of a line IPAddressAllow=.
func prefixes(t *testing.T, list string) (out []netip.Prefix) {
	t.Helper()
	for text := range strings.FieldsSeq(list) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// allow attaches the filter of IPAddressAllow= and IPAddressDeny=any. It is detached when the
// test ends, or by the function that it returns.
func (w world) allow(g *netlab.Cgroup, list string) (detach func()) {
	w.T.Helper()
	f, err := filterstest.AllowAddresses(g.Path, prefixes(w.T, list)...)
	return w.attached(f, err)
}

// allowLinks attaches the filter of RestrictNetworkInterfaces=.
func (w world) allowLinks(g *netlab.Cgroup, names ...string) (detach func()) {
	w.T.Helper()
	var indexes []int
	for _, name := range names {
		indexes = append(indexes, w.index(name))
	}
	f, err := filterstest.AllowInterfaces(g.Path, indexes...)
	return w.attached(f, err)
}

func (w world) attached(f *filterstest.Filter, err error) (detach func()) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
	closed := false
	detach = func() {
		if !closed {
			closed = true
			if err := f.Close(); err != nil {
				w.T.Error(err)
			}
		}
	}
	w.T.Cleanup(detach)
	return detach
}

// below makes a cgroup below another one.
func (w world) below(g *netlab.Cgroup, name string) *netlab.Cgroup {
	w.T.Helper()
	b, err := w.Lab.Below(g, name)
	if err != nil {
		w.T.Fatal(err)
	}
	return b
}

const nameservers = "8.8.8.0/24 2001:4860:4860::/48 "

// TestIPAddressAllow checks the address lists of units: on the sealed cgroup and on units
// below it. What the log says is added, and then queries are answered.
func TestIPAddressAllow(t *testing.T) {
	for _, name := range []string{"the sealed unit", "a unit below", "a slice above"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			top := w.Cgroup("top.slice")
			unit := w.below(top, "app.service")
			sealed, filtered, section := unit, unit, "[Service]"
			switch name {
			case "a unit below":
				sealed = top
			case "a slice above":
				filtered, section = top, "[Slice]"
			}
			detach := w.allow(filtered, nameservers)
			p := w.run(sealed)
			got := w.one(p)
			unitName := filtered.Path[strings.LastIndex(filtered.Path, "/")+1:]
			want := blocked{
				unit.Path, "", "udp4, tcp4, udp6, tcp6", "IPAddressAllow= and IPAddressDeny= of " + unitName,
				"systemctl edit " + unitName + ", with " + section + " IPAddressAllow=198.19.0.0/16 fd73:6f74:746f::/64",
			}
			if got != want {
				t.Errorf("got  %+v\nwant %+v\n%s", got, want, p.Log())
			}
			if w.answered(w.Host, unit, v4) {
				t.Error("queries are answered: this test proves nothing")
			}
			_, added, _ := strings.Cut(got.fix, "IPAddressAllow=")
			detach()
			w.allow(filtered, nameservers+added)
			for _, ns := range []string{v4, v6} {
				if !w.answered(w.Host, unit, ns) {
					t.Errorf("queries to %s are not answered with %s", ns, added)
				}
			}
			w.Stop(p)
			if q := w.run(sealed); len(w.warnings(q)) > 0 {
				t.Errorf("warnings after the change:\n%s", q.Log())
			}
		})
	}
}

// TestRestrictNetworkInterfaces is TestIPAddressAllow for the list of interfaces.
func TestRestrictNetworkInterfaces(t *testing.T) {
	w := newWorld(t)
	top := w.Cgroup("workload")
	unit := w.below(top, "app.service")
	detach := w.allowLinks(unit, netlab.HostIf)
	p := w.run(top)
	got := w.one(p)
	want := blocked{
		unit.Path, "", "udp4, tcp4, udp6, tcp6", "RestrictNetworkInterfaces= of app.service",
		"systemctl edit app.service, with [Service] RestrictNetworkInterfaces=sotto0",
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v\n%s", got, want, p.Log())
	}
	if w.answered(w.Host, unit, v4) {
		t.Error("queries are answered: this test proves nothing")
	}
	detach()
	_, added, _ := strings.Cut(got.fix, "RestrictNetworkInterfaces=")
	w.allowLinks(unit, netlab.HostIf, added)
	for _, ns := range []string{v4, v6} {
		if !w.answered(w.Host, unit, ns) {
			t.Errorf("queries to %s are not answered with %s", ns, added)
		}
	}
}

// TestUnitsWithoutDNS checks that there is no warning about units that reach no nameserver
// without a seal either, about excluded units, and about each of several units with one cause.
func TestUnitsWithoutDNS(t *testing.T) {
	w := newWorld(t)
	top := w.Cgroup("workload")
	w.allow(w.below(top, "none.service"), "")
	w.allow(w.below(top, "local.service"), "127.0.0.0/8")
	w.allowLinks(w.below(top, "lo.service"), "lo")
	excluded := w.below(top, "excluded.service")
	w.allow(excluded, nameservers)
	p := w.Start(tested, append(w.RunArgs(top), "--log-level", "debug", "--exclude", excluded.Path)...)
	if all := w.warnings(p); len(all) > 0 {
		t.Errorf("warnings: %+v\n%s", all, p.Log())
	}
	w.Stop(p)
	p = w.Start(tested, append(w.RunArgs(top), "--log-level", "debug")...)
	if got := w.one(p); got.cgroup != excluded.Path {
		t.Errorf("got %+v", got)
	}
}
