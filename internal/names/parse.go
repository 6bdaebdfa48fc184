// SPDX-License-Identifier: Apache-2.0

package names

import (
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Kind is the kind of a workload.
type Kind string

const (
	Unit      Kind = "unit"      // a systemd unit of the system
	User      Kind = "user"      // a session or a unit of a user
	Docker    Kind = "docker"    // a Docker container
	Podman    Kind = "podman"    // a podman container
	Pod       Kind = "pod"       // a container of a Kubernetes pod, or the pod itself
	Container Kind = "container" // a container of another runtime
	Machine   Kind = "machine"   // a machine of systemd-machined: nspawn, libvirt
	Exec      Kind = "exec"      // a command of `sotto exec`
)

// Name is the name of a workload. The zero value means that it is unknown.
type Name struct {
	Kind Kind
	Name string // never empty if Kind is set
}

// String returns the name as people write it: "nginx.service", "docker:web",
// "podman:1000/db" (of the user with this UID), "pod:default/web-0/nginx". It returns "" for the
// zero value. A name can contain any character that the name of a cgroup can.
func (n Name) String() string {
	if n.Kind == Unit || n.Kind == "" {
		return n.Name
	}
	return string(n.Kind) + ":" + n.Name
}

// Cgroup describes a workload as far as the path of its cgroup says it.
type Cgroup struct {
	Kind Kind   // "" if the path says nothing
	Name string // of units, machines and commands
	User string // UID, if the cgroup is below the slice of a user
	ID   string // of a container: 64 hexadecimal digits
	Pod  string // UID of the pod
}

// label returns the name without further knowledge: containers have the short form of their
// ID.
func (c Cgroup) label() Name {
	name := c.Name
	switch {
	case c.Kind == Pod:
		name = c.Pod
	case c.ID != "":
		name = c.ID[:shortID]
	}
	return c.with(name)
}

// with returns the name of the workload with the user in front.
func (c Cgroup) with(name string) Name {
	if c.User != "" && c.Kind != User {
		name = c.User + "/" + name
	}
	return Name{c.Kind, name}
}

// shortID is the length of the IDs that `docker ps` and `podman ps` show.
const shortID = 12

// patterns match parts of paths.
type patterns struct {
	userSlice, podSlice, podDir, containerScope, containerDir, machineScope, lxcDir, execDir, unit *regexp.Regexp
}

// compiled returns the patterns. They are compiled when they are first used: `sotto exec` starts
// faster without them.
var compiled = sync.OnceValue(func() *patterns {
	return &patterns{
		userSlice: regexp.MustCompile(`^user-([0-9]+)\.slice$`),

		// With the systemd driver the parts of a pod's cgroup are joined by dashes, and their own
		// dashes are underscores. Those of the kubelet's cgroupRoot are in front ("kubelet-" with
		// kind). The UID of a static pod is a hash.
		podSlice: regexp.MustCompile(`^(?:[^-/]+-)*kubepods(?:-besteffort|-burstable)?-pod([0-9a-f_]{32,36})\.slice$`),
		podDir:   regexp.MustCompile(`^(?:kubelet/)?kubepods(?:/besteffort|/burstable)?/pod([0-9a-f-]{32,36})(?:/([0-9a-f]{64}))?(?:/|$)`),

		containerScope: regexp.MustCompile(`^(docker|libpod|cri-containerd|crio|nerdctl)-([0-9a-f]{64})\.scope$`),
		containerDir:   regexp.MustCompile(`^(docker/|libpod_parent/libpod-|default/|k8s\.io/)([0-9a-f]{64})(?:/|$)`),

		machineScope: regexp.MustCompile(`^machine-(.+)\.scope$`),
		lxcDir:       regexp.MustCompile(`^lxc(?:\.payload)?[./]([^/]+)(?:/|$)`),
		execDir:      regexp.MustCompile(`^sotto-exec-[0-9]+$`),
		unit:         regexp.MustCompile(`^.+\.(?:service|scope|socket|mount|swap)$`),
	}
})

// runtimes are the kinds of containers by the prefix of their cgroups.
var runtimes = map[string]Kind{
	"docker": Docker, "docker/": Docker, "libpod": Podman, "libpod_parent/libpod-": Podman,
	"default/": Container, "k8s.io/": Container, // containerd's namespaces
}

// Parse returns what the path of a cgroup says, as in /proc/PID/cgroup. The outermost
// container or unit decides: what is below it belongs to it, whatever its name is.
func Parse(path string) Cgroup {
	path = strings.Trim(path, "/")
	if c, ok := parseDirs(path); ok {
		return c
	}
	parts := strings.Split(path, "/")
	if len(parts) > 1 && parts[0] == "user.slice" {
		if m := compiled().userSlice.FindStringSubmatch(parts[1]); m != nil {
			return parseUser(m[1], parts[2:])
		}
	}
	return parseUnits(parts)
}

// parseDirs parses the path of a runtime that does not use systemd.
func parseDirs(path string) (Cgroup, bool) {
	if m := compiled().podDir.FindStringSubmatch(path); m != nil {
		return Cgroup{Kind: Pod, Pod: m[1], ID: m[2]}, true
	}
	if m := compiled().containerDir.FindStringSubmatch(path); m != nil {
		return Cgroup{Kind: runtimes[m[1]], ID: m[2]}, true
	}
	if m := compiled().lxcDir.FindStringSubmatch(path); m != nil {
		return Cgroup{Kind: Container, Name: m[1]}, true
	}
	return Cgroup{}, false
}

// parseUnits parses the cgroups that a service manager made: slices, and the unit in them.
func parseUnits(parts []string) (c Cgroup) {
	last := ""
	for len(parts) > 0 && strings.HasSuffix(parts[0], ".slice") {
		last = parts[0]
		if m := compiled().podSlice.FindStringSubmatch(last); m != nil {
			c.Pod = strings.ReplaceAll(m[1], "_", "-")
		}
		parts = parts[1:]
	}
	if len(parts) == 0 {
		parts = []string{last}
	}
	leaf := parts[0]
	if m := compiled().containerScope.FindStringSubmatch(leaf); m != nil {
		c.ID = m[2]
		if c.Kind = runtimes[m[1]]; c.Kind == "" {
			c.Kind = Container
		}
	}
	switch {
	case c.Pod != "":
		c.Kind = Pod
	case c.Kind != "": // a container
	case compiled().machineScope.MatchString(leaf):
		c.Kind, c.Name = Machine, unescape(compiled().machineScope.FindStringSubmatch(leaf)[1])
	case compiled().execDir.MatchString(leaf):
		c.Kind, c.Name = Exec, leaf
	case compiled().unit.MatchString(leaf), leaf == last && leaf != "":
		c.Kind, c.Name = Unit, unescape(leaf)
	}
	return c
}

// parseUser parses the cgroups below the slice of a user. The user may have created them.
func parseUser(uid string, parts []string) Cgroup {
	if len(parts) > 0 && parts[0] == "user@"+uid+".service" {
		parts = parts[1:]
	}
	c := Cgroup{}
	if len(parts) > 0 {
		c = parseUnits(parts)
	}
	c.User, c.Pod = uid, "" // a kubelet does not run there
	switch {
	case c.Kind == Docker, c.Kind == Podman:
	case c.Name == "":
		c = Cgroup{Kind: User, Name: uid, User: uid}
	default:
		c = Cgroup{Kind: User, Name: uid + "/" + c.Name, User: uid}
	}
	return c
}

// unescape replaces the escapes of systemd (\x2d) that stand for printable ASCII characters.
func unescape(name string) string {
	if !strings.Contains(name, `\x`) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if strings.HasPrefix(name[i:], `\x`) && len(name) >= i+4 {
			if c, err := strconv.ParseUint(name[i+2:i+4], 16, 8); err == nil && c > ' ' && c < 0x7f {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}
