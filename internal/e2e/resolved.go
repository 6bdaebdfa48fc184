// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/netlab/labtest"
)

// resolvedVar names a directory in which systemd-resolved and its library are unpacked. On a
// machine where it is installed it becomes the resolver.
const resolvedVar = "SOTTO_RESOLVED"

// Resolved is systemd-resolved in a mount namespace, with its own configuration and user.
type Resolved struct {
	Dir      string   // for its files; needs none of its own
	Settings []string // of [Resolve] in resolved.conf, in addition to those that disable everything but DNS
	Shared   bool     // its sockets below /run are visible to others
	Setup    string   // a script that runs before it, in its mount namespace
	Client   string   // a script that runs beside it, after which it ends; "": it runs until it is killed
}

const resolvedSetup = `
set -e
cp /etc/passwd /etc/group "$dir"
echo 'systemd-resolve:x:992:992::/:/usr/sbin/nologin' >>"$dir/passwd"
echo 'systemd-resolve:x:992:' >>"$dir/group"
mount --bind "$dir/passwd" /etc/passwd
mount --bind "$dir/group" /etc/group
mkdir -p /etc/systemd /run/systemd
mount -t tmpfs tmpfs /etc/systemd
[ "$shared" = true ] || mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/netif/links
cp "$dir/resolved.conf" /etc/systemd/resolved.conf
`

// Command returns the command line. It skips the test where there is no systemd-resolved.
func (r Resolved) Command(t *testing.T) []string {
	t.Helper()
	dir := os.Getenv(resolvedVar)
	program, libs := filepath.Join("/", dir, "lib/systemd/systemd-resolved"), ""
	if _, err := os.Stat(program); err != nil {
		labtest.Skip(t, "needs systemd-resolved, installed or unpacked in $"+resolvedVar)
	}
	if found, _ := filepath.Glob(dir + "/usr/lib/*/systemd/libsystemd-shared-*.so"); dir != "" && len(found) > 0 {
		libs = filepath.Dir(found[0])
	}
	settings := append([]string{"[Resolve]", "FallbackDNS=", "DNSOverTLS=no", "LLMNR=no", "MulticastDNS=no", "Cache=no"}, r.Settings...)
	WriteFile(t, filepath.Join(r.Dir, "resolved.conf"), strings.Join(settings, "\n")+"\n")
	script := resolvedSetup + r.Setup
	// The library is not one for the programs of a script.
	if r.Client == "" {
		script += "\nLD_LIBRARY_PATH=$libs exec \"$program\"\n"
	} else {
		script += "\nLD_LIBRARY_PATH=$libs \"$program\" >\"$dir/resolved.log\" 2>&1 &\nresolved=$!\ntrap 'kill $resolved' EXIT\n" + r.Client
	}
	shared := ""
	if r.Shared {
		shared = "true"
	}
	return []string{"env", "dir=" + r.Dir, "program=" + program, "libs=" + libs, "shared=" + shared,
		"unshare", "--mount", "--propagation", "private", "sh", "-c", script}
}
