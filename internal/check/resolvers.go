// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sotto/intercept"
	"sotto/intercept/cgroup"
	"sotto/internal/daemon"
)

// Files of the C library's resolver.
const (
	resolvConf = "/etc/resolv.conf"
	nsswitch   = "/etc/nsswitch.conf"
)

// checkResolvConf checks which nameservers programs ask.
func checkResolvConf(_ context.Context, m *machine) Result {
	const name = "resolv.conf"
	const fix = "add any nameserver, which Sotto redirects: echo nameserver 9.9.9.9 > " + resolvConf
	text, err := os.ReadFile(resolvConf)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return warning(name, fix, "%s does not exist, or links to a missing file: programs ask 127.0.0.1", resolvConf)
	case err != nil:
		return failed(name, "make "+resolvConf+" readable for all", "%v", err)
	}
	servers := daemon.ParseNameservers(string(text))
	if len(servers) == 0 {
		return warning(name, fix, "%s names no nameserver: programs ask 127.0.0.1", resolvConf)
	}
	return ok(name, "%s", describeServers(servers, m.seal.LocalResolvers))
}

func describeServers(servers []netip.Addr, mode intercept.LocalMode) string {
	var texts []string
	for _, s := range servers {
		text := s.String()
		if s.IsLoopback() {
			text += map[intercept.LocalMode]string{
				intercept.LocalKeep: " (on this machine, left alone)", intercept.LocalRedirect: " (on this machine, redirected)",
			}[mode]
		}
		texts = append(texts, text)
	}
	return "nameservers " + strings.Join(texts, ", ")
}

// checkLocalResolvers finds local resolvers to which queries are left alone although their own
// queries are not sealed.
func checkLocalResolvers(_ context.Context, m *machine) Result {
	const name = "local resolvers"
	if m.seal.LocalResolvers == intercept.LocalRedirect {
		return ok(name, "queries to them are redirected")
	}
	text, err := os.ReadFile(resolvConf)
	switch {
	case err != nil:
		return skipped(name, "there is no %s", resolvConf)
	case m.noCgroup2:
		return needsCgroup2(name)
	}
	found, err := intercept.UncoveredResolvers(m.seal, daemon.ParseNameservers(string(text)))
	if err != nil {
		return skipped(name, "cannot find out whether the seal covers them: %v", err)
	}
	if len(found) == 0 {
		return ok(name, "the seal covers those in %s", resolvConf)
	}
	var texts []string
	for _, u := range found {
		texts = append(texts, fmt.Sprintf("%s (cgroup %s)", u.Addr, u.Cgroup))
	}
	return warning(name, `set local-resolvers = "redirect", or seal the cgroup (cgroups, exclude)`,
		"queries to %s are left alone, and its own queries leave in plain text", list(texts, ", "))
}

// lookupPath is a socket by which the C library looks up names without DNS.
type lookupPath struct {
	socket string
	by     string // what uses it
	used   bool
	cgroup string // of the process that listens, as in /proc/PID/cgroup; "" if unknown
}

// checkLookupPaths finds lookups that no seal of DNS sees, unless it covers the process that
// answers them.
func checkLookupPaths(_ context.Context, m *machine) Result {
	const name = "other lookup paths"
	text, err := os.ReadFile(nsswitch)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return warning(name, "make "+nsswitch+" readable for all", "%v", err)
	}
	paths := []lookupPath{
		{socket: "/run/systemd/resolve/io.systemd.Resolve", by: "nss-resolve", used: slices.Contains(hostsServices(string(text)), "resolve")},
		{socket: "/run/nscd/socket", by: "nscd", used: true},
		{socket: "/var/run/nscd/socket", by: "nscd", used: true},
	}
	var open []lookupPath
	for _, p := range paths {
		real, err := filepath.EvalSymlinks(p.socket)
		if err != nil || slices.ContainsFunc(open, func(o lookupPath) bool { return o.socket == real }) {
			continue
		}
		p.socket = real
		var listens bool
		if p.cgroup, listens = listenerOf(real); p.used && listens {
			open = append(open, p)
		}
	}
	root, err := cgroup.Root()
	if err != nil {
		return needsCgroup2(name)
	}
	return judgePaths(name, open, func(path string) bool {
		return cgroup.IsWithin(root, path, m.seal.Cgroups) && !cgroup.IsWithin(root, path, m.seal.Exclude)
	})
}

func judgePaths(name string, open []lookupPath, sealed func(cgroup string) bool) Result {
	var texts, covered []string
	for _, p := range open {
		switch {
		case p.cgroup != "" && sealed(p.cgroup):
			covered = append(covered, p.by)
		case p.cgroup == "":
			texts = append(texts, fmt.Sprintf("%s (%s, of an unknown process)", p.by, p.socket))
		default:
			texts = append(texts, fmt.Sprintf("%s (%s, of the cgroup %s)", p.by, p.socket, p.cgroup))
		}
	}
	switch {
	case len(texts) > 0:
		return warning(name, "remove resolve from the line hosts: in "+nsswitch+" and stop nscd, or seal the cgroup of the process that answers",
			"programs of the seal look up names by %s, which the seal does not cover", strings.Join(texts, ", "))
	case len(covered) > 0:
		return ok(name, "%s: the seal covers its queries, and they count as its own", strings.Join(covered, ", "))
	}
	return ok(name, "none")
}

// hostsServices returns the services in the line "hosts:" of nsswitch.conf, without actions.
func hostsServices(text string) (out []string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, found := strings.CutPrefix(strings.TrimSpace(line), "hosts:")
		if !found {
			continue
		}
		for {
			before, action, has := strings.Cut(rest, "[")
			out = append(out, strings.Fields(before)...)
			if !has {
				break
			}
			_, rest, _ = strings.Cut(action, "]")
		}
	}
	return out
}

// listenerOf returns the cgroup of the process that listens on a Unix socket, and whether one
// does.
func listenerOf(socket string) (path string, listens bool) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return "", errors.Is(err, fs.ErrPermission)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return "", true
	}
	var peer *unix.Ucred
	if raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return "", true
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", peer.Pid))
	if err != nil {
		return "", true
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path, true
		}
	}
	return "", true
}
