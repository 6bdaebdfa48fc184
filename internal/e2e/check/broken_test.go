// SPDX-License-Identifier: Apache-2.0

package check

import (
	"strings"
	"testing"

	"sotto/intercept/cgroup"
	"sotto/intercept/others/otherstest"
	"sotto/internal/check"
	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

// TestBrokenMachines checks machines that lack something, or where other software prevents the
// seal. Each result that is not ok is compared with its fix.
func TestBrokenMachines(t *testing.T) {
	cgroup2, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		machine
		want []want
	}{
		"no cgroup2": {
			// As PID 1, because it would mount the hierarchy if the mounts of PID 1 were others.
			machine{setup: "umount -l " + cgroup2, prefix: []string{"unshare", "--pid", "--fork", "--mount-proc", "--"}},
			[]want{
				{"cgroup2", check.Failed, "it is not mounted here", "mount -t cgroup2 none /sys/fs/cgroup/unified"},
				{"programs of other software", check.Skipped, "needs cgroup2", ""},
				{"local resolvers", check.Skipped, "needs cgroup2", ""},
				{"other lookup paths", check.Skipped, "needs cgroup2", ""},
				{"sealed query", check.Skipped, "needs cgroup2", ""},
			},
		},
		"read-only cgroup2": {
			machine{setup: "mount -o remount,bind,ro " + cgroup2},
			[]want{
				{"cgroup2", check.Warning, cgroup2 + " is mounted read-only", "mount -o remount,rw " + cgroup2},
				{"sealed query", check.Skipped, "needs a writable cgroup2", ""},
			},
		},
		"no bpffs": {
			machine{setup: "umount /sys/fs/bpf"},
			[]want{
				{"bpffs", check.Warning, "not mounted on /sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf"},
				{"sealed query", check.Skipped, "needs bpffs", ""},
			},
		},
		"read-only bpffs": {
			machine{setup: "mount -o remount,bind,ro /sys/fs/bpf"},
			[]want{
				{"bpffs", check.Failed, "/sys/fs/bpf is mounted read-only", "mount -o remount,rw /sys/fs/bpf"},
				{"sealed query", check.Skipped, "needs bpffs", ""},
			},
		},
		"missing capability": {
			machine{prefix: []string{"setpriv", "--bounding-set", "-sys_admin,-net_admin", "--"}},
			[]want{
				{"capabilities", check.Failed, "root without CAP_NET_ADMIN CAP_SYS_ADMIN", "CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN"},
				{"kernel", check.Skipped, "needs the capabilities above", ""},
				{"routes", check.Skipped, "needs the capabilities above", ""},
				{"programs of other software", check.Skipped, "needs the capabilities above", ""},
				{"sealed query", check.Skipped, "needs the capabilities above", ""},
				{"firewall", check.Skipped, "needs the capabilities above", ""},
			},
		},
		"no capture": {
			machine{prefix: []string{"setpriv", "--bounding-set", "-net_raw", "--"}},
			[]want{{"sealed query", check.Skipped, "needs CAP_NET_RAW", ""}},
		},
		"no IPv6": {
			machine{setup: "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"},
			[]want{{"IPv6", check.Warning, "disabled", "sysctl -w net.ipv6.conf.all.disable_ipv6=0"}},
		},
		"strict reverse path filter": {
			machine{setup: "sysctl -qw net.ipv4.conf.eth0.rp_filter=1"},
			[]want{{"reverse path filter", check.Warning, "strict on eth0", "sysctl -w net.ipv4.conf.all.rp_filter=2"}},
		},
		"prefix routed elsewhere": {
			machine{setup: "ip route add 198.19.128.0/24 via " + netlab.LANAddr4},
			[]want{{"routes", check.Failed, "198.19.0.0/16 are routed elsewhere: 198.19.128.0/24 via 10.77.0.1 dev eth0", "ip route del 198.19.128.0/24 via 10.77.0.1 dev eth0"}},
		},
		"output dropped": {
			machine{setup: `nft 'table inet fw { chain out { type filter hook output priority 0; policy drop; oifname { "lo", "eth0" } accept; }; }'`},
			[]want{
				{"sealed query", check.Failed, "no answer to udp4: write udp", "see the firewall below"},
				{"firewall", check.Failed, "nftables chain inet fw out (policy drop)", `nft insert rule inet fw out oifname "sotto*" accept`},
			},
		},
		"input dropped by a rule": {
			machine{setup: `nft 'table ip fw { chain in { type filter hook input priority 0; ip saddr 198.18.0.0/15 udp sport 53 drop; }; }'`},
			[]want{
				{"sealed query", check.Failed, "no answer to udp4: read udp", "see the firewall below"},
				{"firewall", check.Failed, "nftables chain ip fw in (has rules that drop)", `nft insert rule ip fw in iifname "sotto*" accept`},
			},
		},
		"a policy, and no query": {
			machine{setup: `nft 'table inet fw { chain in { type filter hook input priority 0; policy drop; iifname "eth0" accept; }; }'`, args: []string{"--no-query"}},
			[]want{
				{"sealed query", check.Skipped, "--no-query", ""},
				{"firewall", check.Warning, "may drop packets to virtual addresses: nftables chain inet fw in", `iifname "sotto*" accept`},
			},
		},
		"no resolv.conf": {
			machine{setup: "mount -t tmpfs tmpfs /mnt && touch /mnt/empty && mount --bind /mnt/empty /etc/resolv.conf"},
			[]want{{"resolv.conf", check.Warning, "names no nameserver: programs ask 127.0.0.1", "echo nameserver"}},
		},
		"invalid configuration": {
			machine{args: []string{"--config", "CONFIG"}},
			[]want{
				{"configuration", check.Failed, ":2:10: policy: read the policy", "correct it"},
				{"upstreams", check.Skipped, "the configuration is invalid", ""},
				{"sealed query", check.Skipped, "the configuration is invalid", ""},
			},
		},
		"missing cgroup": {
			machine{args: []string{"--cgroup", "no-such.slice"}},
			[]want{{"configuration", check.Failed, "no-such.slice: no such file or directory", "name an existing cgroup"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for i, arg := range c.args {
				if arg == "CONFIG" {
					c.args[i] = w.file("\npolicy = \"quick\"\n")
				}
			}
			w.expect(c.machine, c.want...)
			w.Shell("ip route flush 198.19.128.0/24; nft flush ruleset") // what the machine's setup made
			w.NothingLeft()
		})
	}
}

// TestOtherPrograms checks programs of other software on a sealed cgroup.
func TestOtherPrograms(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("app.service")
	otherstest.Connect4(t, g.Path, "cil_sock4")
	m := machine{args: []string{"--cgroup", g.Path}}
	programs := want{"programs of other software", check.Warning, `"cil_sock4" (ID `, "bpftool cgroup tree"}
	w.expect(m, programs)
	otherstest.Egress(t, g.Path, "sd_fw_egress")
	w.expect(m, programs, want{"firewall", check.Warning, "may drop the queries of " + g.Path[strings.LastIndexByte(g.Path, '/')+1:], "IPAddressAllow=198.19.0.0/16"})
}

// TestUncoveredResolver checks a resolver on this machine that is left alone and is not sealed.
func TestUncoveredResolver(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("sealed")
	l, pc, err := listenPlain(w, "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	e2e.Serve(t, dnstest.Config{Handler: w.Zone(e2e.Plain4, e2e.Plain6), TCP: l, UDP: pc})
	setup := "mount --bind " + w.file("nameserver 127.0.0.1\n") + " /etc/resolv.conf"
	w.expect(machine{setup: setup, args: []string{"--cgroup", g.Path}})
	w.expect(machine{setup: setup, args: []string{"--cgroup", g.Path, "--local-resolvers", "keep"}},
		want{"local resolvers", check.Warning, "queries to 127.0.0.1 (cgroup /) are left alone, and its own queries leave in plain text", `set local-resolvers = "redirect"`})
}

// TestLookupPath checks systemd-resolved's socket for nss-resolve, whose process is not sealed.
func TestLookupPath(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("sealed")
	const socket = "/run/systemd/resolve/io.systemd.Resolve"
	listenUnix(t, socket)
	setup := "mount --bind " + w.file("passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n") + " /etc/nsswitch.conf"
	args := []string{"--cgroup", g.Path, "--no-query"}
	noQuery := want{"sealed query", check.Skipped, "--no-query", ""}
	w.expect(machine{setup: setup, args: args}, noQuery,
		want{"other lookup paths", check.Warning, "nss-resolve (" + socket + ", of the cgroup /), which the seal does not cover", "remove resolve from the line hosts:"})
	w.expect(machine{setup: setup, args: []string{"--no-query"}}, noQuery) // a seal of the whole host covers it
	w.expect(machine{args: args}, noQuery)                                 // glibc does not use it
}

// TestRunningSotto checks that a running Sotto is not sealed again, and is used from inside.
func TestRunningSotto(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("sealed")
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	outside := w.expect(machine{}, want{"sealed query", check.Skipped, "the running Sotto does not seal this process", ""})
	if d := outside.Results[1].Detail; !strings.Contains(d, "seals "+g.Path) {
		t.Errorf("running Sotto: %s", d)
	}
	inside := w.expect(machine{cgroup: g})
	if d := find(inside, "sealed query").Detail; !strings.Contains(d, "answered within") {
		t.Errorf("sealed query: %s", d)
	}
	w.Kill(p)
	w.expect(machine{}, want{"running Sotto", check.Failed, "its seal is still closed: queries of " + g.Path + " fail", "sotto down"})
	if out, errs, status := w.Sotto("down"); status != 0 {
		t.Errorf("down: %s%s", out, errs)
	}
	p = w.Start("msg=sealed", append(w.RunArgs(g), "--control", "off")...)
	w.expect(machine{}, want{"running Sotto", check.Warning, "listens on another control socket or on none", "name its socket with --control"})
	w.Stop(p)
	w.NothingLeft()
}

// TestLeak checks that the capture sees queries that leave in the clear.
func TestLeak(t *testing.T) {
	w := world{e2e.New(t)} // not watched
	config := w.file("[[rule]]\nname = \"invalid\"\nuse = \"plain\"\n")
	w.expect(machine{args: []string{"--config", config}},
		want{"sealed query", check.Failed, "packets left in the clear, the first one is ", `use = "plain"`})
}

func find(r check.Report, name string) check.Result {
	for _, got := range r.Results {
		if got.Name == name {
			return got
		}
	}
	return check.Result{}
}
