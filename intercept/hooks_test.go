// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/intercept/clienttest"
	"sotto/intercept/feature"
	"sotto/internal/netlab"
)

func TestHooks(t *testing.T) {
	s := openSeal(t, nil)
	w := s.about("") // " by /NAME"
	for name, script := range map[string]string{
		"udp4": `
			socket a udp4 => ok
			connect a 8.8.8.8:53 => ok
			peer a => 8.8.8.8:53
			name a => 10.77.0.2
			send a => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
		"udp6": `
			socket a udp6 => ok
			connect a [2001:db8::53]:53 => ok
			peer a => [2001:db8::53]:53
			name a => fd77::2
			send a => ok
			recv a => [2001:db8::53]:53W from [2001:db8::53]:53`,
		"udp mapped": `
			socket a udp6 => ok
			connect a 8.8.4.4:53 => ok
			peer a => [::ffff:8.8.4.4]:53
			send a => ok
			recv a => 8.8.4.4:53W from [::ffff:8.8.4.4]:53`,
		"tcp4": `
			socket a tcp4 => ok
			connect a 1.1.1.1:53 => ok
			peer a => 1.1.1.1:53
			send a => ok
			recv a => 1.1.1.1:53W`,
		"tcp6": `
			socket a tcp6 => ok
			connect a [2001:db8::54]:53 => ok
			peer a => [2001:db8::54]:53
			send a => ok
			recv a => [2001:db8::54]:53W`,
		"tcp mapped": `
			socket a tcp6 => ok
			connect a 1.1.1.1:53 => ok
			peer a => [::ffff:1.1.1.1]:53
			send a => ok
			recv a => 1.1.1.1:53W`,
		"unconnected, four nameservers on one socket": `
			socket a udp4 => ok
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53
			sendto a 1.1.1.1:53 => ok
			sendto a 9.9.9.9:53 => ok
			recv a => 1.1.1.1:53W from 1.1.1.1:53
			recv a => 9.9.9.9:53W from 9.9.9.9:53
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53
			peer a => ENOTCONN`,
		"unconnected, both families on one socket": `
			socket a udp6 => ok
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from [::ffff:8.8.8.8]:53
			sendto a [2001:db8::53]:53 => ok
			recv a => [2001:db8::53]:53W from [2001:db8::53]:53`,
		"connected elsewhere": `
			socket a udp4 => ok
			connect a 8.8.8.8:53 => ok
			connect a 9.9.9.9:53 => ok
			peer a => 9.9.9.9:53
			send a => ok
			recv a => 9.9.9.9:53W from 9.9.9.9:53
			disconnect a => ok
			peer a => ENOTCONN
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
		"send elsewhere while connected": `
			socket a udp4 => ok
			connect a 8.8.8.8:53 => ok
			sendto a 9.9.9.9:53 => ok
			peer a => 8.8.8.8:53`,
		"AF_UNSPEC": `
			socket a udp4 => ok
			sendunspec a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
		"control message only": `
			socket a udp4 => ok
			connect a 8.8.8.8:53 => ok
			sendcontrol a => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
	} {
		t.Run(name, func(t *testing.T) {
			s.client(t).Want(strings.ReplaceAll(script, "53W", "53"+w))
		})
	}
}

// Everything else is sent to its original destination.
func TestUntouched(t *testing.T) {
	s := openSeal(t, nil)
	if err := s.host.Sysctl("net/ipv4/ping_group_range", "0 0"); err != nil {
		t.Fatal(err)
	}
	before := s.Counters()
	s.client(t).Want(`
		socket other udp4 => ok
		connect other 8.8.8.8:5353 => ok
		peer other => 8.8.8.8:5353
		socket loop udp4 => ok
		connect loop 127.0.0.11:53 => ok
		send loop => ok
		recv loop => ECONNREFUSED
		socket loop6 udp6 => ok
		connect loop6 [::1]:53 => ok
		send loop6 => ok
		recv loop6 => ECONNREFUSED
		socket mapped udp6 => ok
		connect mapped 127.0.0.53:53 => ok
		send mapped => ok
		recv mapped => ECONNREFUSED
		socket tcp tcp4 => ok
		connect tcp 127.0.0.1:53 => ECONNREFUSED
		socket any udp4 => ok
		connect any 0.0.0.0:53 => ok
		peer any => 127.0.0.1:53
		socket group udp4 => ok
		connect group 224.0.0.251:5353 => ok
		peer group => 224.0.0.251:5353
		socket ping ping4 => ok
		connect ping 8.8.8.8:53 => ok`)
	after := s.Counters()
	for _, name := range []string{"connect", "send", "slot_new", "unknown"} {
		if before[name] != after[name] {
			t.Errorf("%s was counted %d times", name, after[name]-before[name])
		}
	}
	if before["connect"] != 0 {
		t.Errorf("counted %v before the first query", before)
	}
}

// UDP-Lite and MPTCP are sealed where the kernel has a hook for them: it has none for
// connect on UDP-Lite.
func TestOtherTransports(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	for kind, script := range map[string]string{
		"udplite4": "sendto a 8.8.8.8:53 => ok",
		"udplite6": "sendto a [2001:db8::53]:53 => ok",
		"mptcp4": `connect a 8.8.8.8:53 => ok
			peer a => 8.8.8.8:53
			send a => ok
			recv a => ` + s.about("8.8.8.8:53"),
	} {
		if got := c.Do("socket a %s", kind); got != "ok" {
			continue // not supported by this kernel
		}
		before := s.Counters()
		c.Want(script + "\nclose a => ok")
		after := s.Counters()
		if got := after["connect"] + after["send"] - before["connect"] - before["send"]; got != 1 {
			t.Errorf("%s: sealed %d times", kind, got)
		}
	}
}

func TestPorts(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Ports = []uint16{5300, 53} })
	s.client(t).Want(strings.ReplaceAll(`
		socket a udp4 => ok
		connect a 8.8.8.8:5300 => ok
		peer a => 8.8.8.8:5300
		send a => ok
		recv a => 8.8.8.8:5300W from 8.8.8.8:5300
		sendto a 8.8.4.4:53 => ok
		socket b udp6 => ok
		sendto b [2001:db8::53]:5300 => ok
		recv b => [2001:db8::53]:5300W from [2001:db8::53]:5300`, "W", s.about("")))
}

// Without the guard, a socket that is bound to an interface would send the query by that
// interface instead of the route to the listener, and so would one with a scope ID, if the
// kernel reads it before it runs the hook. Such queries are refused.
func TestBoundToInterface(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Guard = GuardOff })
	errno := "EHOSTUNREACH"
	if !feature.HasSetRetval() {
		errno = "EPERM"
	}
	s.client(t).Want(strings.NewReplacer("ERR", errno, "W", s.about("")).Replace(`
		socket a udp4 => ok
		bind a eth0 => ok
		sendto a 8.8.8.8:53 => ERR
		connect a 8.8.8.8:53 => ERR
		socket b tcp6 => ok
		bind b eth0 => ok
		connect b [2001:db8::53]:53 => ERR
		socket c udp6 => ok
		bind c eth0 => ok
		sendto c [2001:db8::53]:53 => ERR
		socket d udp6 => ok
		sendto d [fe80::1%eth0]:53 => ERR
		connect d [fe80::1%eth0]:53 => ok
		send d => ok
		recv d => [fe80::1]:53W from [fe80::1]:53`))
	if n := s.Counters()["bound"]; n != 5 {
		t.Errorf("refused %d times", n)
	}
}

// Excluded cgroups, and all cgroups below them, send their queries to the LAN.
func TestExclude(t *testing.T) {
	var below, beside *netlab.Cgroup
	s := openSeal(t, func(cfg *Config) {})
	open, err := s.lab.Below(s.group, "open")
	if err == nil {
		below, err = s.lab.Below(open, "deep")
	}
	if err == nil {
		beside, err = s.lab.Below(s.group, "closed")
	}
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Exclude = []string{open.Path}
	if err := s.resetExclusions(); err != nil {
		t.Fatal(err)
	}
	for group, sealed := range map[*netlab.Cgroup]bool{open: false, below: false, beside: true, s.group: true} {
		c := clienttest.Start(t, s.host, group)
		before := s.Counters()
		c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsocket b udp4 => ok\nsendto b 8.8.4.4:53 => ok")
		after := s.Counters()
		got := [2]uint64{after["connect"] + after["send"] - before["connect"] - before["send"], after["excluded"] - before["excluded"]}
		if want := map[bool][2]uint64{true: {2, 0}, false: {0, 2}}[sealed]; got != want {
			t.Errorf("%s: sealed and excluded %v times, want %v", group.Path, got, want)
		}
	}
	// A cgroup that is no longer excluded is sealed again.
	s.cfg.Exclude = nil
	if err := s.resetExclusions(); err != nil {
		t.Fatal(err)
	}
	clienttest.Start(t, s.host, below).Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => 8.8.8.8:53 by /" +
		filepath.Base(s.group.Path) + "/open/deep from 8.8.8.8:53")
}

// Cgroups may be excluded at eight different levels, anywhere in the hierarchy. One more is
// refused, and changes nothing.
func TestExcludeLevels(t *testing.T) {
	const levels, step = 8, 1
	s := openSeal(t, nil)
	branches := make([]*netlab.Cgroup, levels+1)
	group := s.group
	for i := range step * (levels + 1) {
		var err error
		if group, err = s.lab.Below(group, "deep"); err != nil {
			t.Fatal(err)
		}
		if i%step == 0 {
			if branches[i/step], err = s.lab.Below(group, "open"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, b := range branches[:levels] {
		s.cfg.Exclude = append(s.cfg.Exclude, b.Path)
	}
	if err := s.resetExclusions(); err != nil {
		t.Fatal(err)
	}
	was := s.cfg.Exclude
	s.cfg.Exclude = append(slices.Clone(was), branches[levels].Path)
	if err := s.resetExclusions(); err == nil || !strings.Contains(err.Error(), branches[levels].Path+": it would be at the 9th different level") {
		t.Errorf("exclude at %d levels: %v", levels+1, err)
	}
	for i, b := range branches {
		before := s.Counters()["excluded"]
		clienttest.Start(t, s.host, b).Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
		if got := s.Counters()["excluded"] - before; got != map[bool]uint64{true: 1}[i < levels] {
			t.Errorf("%s: excluded %d times", b.Path, got)
		}
	}
	// All at other levels than before.
	s.cfg.Exclude = []string{branches[levels].Path}
	if err := s.resetExclusions(); err != nil {
		t.Fatal(err)
	}
	before := s.Counters()["excluded"]
	clienttest.Start(t, s.host, branches[levels]).Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	clienttest.Start(t, s.host, branches[0]).Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	if got := s.Counters()["excluded"] - before; got != 1 {
		t.Errorf("excluded %d of 2, want that of %s", got, branches[levels].Path)
	}
}

// The queries of a socket that Control marked are not redirected. The mark belongs to the
// socket, not to its number: it does not affect later sockets.
func TestOwnSocket(t *testing.T) {
	s := openSeal(t, nil)
	for _, marked := range []bool{true, false} {
		fd, err := inGroup(t, s.host, s.group, func(fd int) error {
			if !marked {
				return nil
			}
			return s.Control("udp", "8.8.8.8:53", rawConn(fd))
		})
		if err != nil {
			t.Fatal(err)
		}
		before := s.Counters()
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: [4]byte{8, 8, 8, 8}}); err != nil {
			t.Fatal(err)
		}
		after := s.Counters()
		if sealed := after["connect"] > before["connect"]; sealed == marked {
			t.Errorf("marked %t, sealed %t", marked, sealed)
		}
		if own := after["own"] - before["own"]; own != map[bool]uint64{true: 1}[marked] {
			t.Errorf("marked %t, counted as own %d times", marked, own)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
}

// rawConn implements syscall.RawConn for a file descriptor.
type rawConn int

func (c rawConn) Control(f func(uintptr)) error { f(uintptr(c)); return nil }
func (rawConn) Read(func(uintptr) bool) error   { return unix.ENOTSUP }
func (rawConn) Write(func(uintptr) bool) error  { return unix.ENOTSUP }

// inGroup opens a UDP socket that belongs to a cgroup. Meanwhile the test's process is in
// that cgroup.
func inGroup(t *testing.T, at *netlab.Host, group *netlab.Cgroup, mark func(fd int) error) (fd int, err error) {
	t.Helper()
	own, err := cgroup.Own()
	if err != nil {
		return 0, err
	}
	move := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err := move(group.Path); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, move(own)) }()
	err = at.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return 0, err
	}
	return fd, mark(fd)
}

// The programs find the lowest level of a set in this table.
func TestBitPositions(t *testing.T) {
	spec, err := loadSotto()
	if err != nil {
		t.Fatal(err)
	}
	var table [32]uint8
	if err := spec.Variables[sottoVarBitPositions].Get(&table); err != nil {
		t.Fatal(err)
	}
	for n := range uint32(32) {
		if got := table[(uint32(1)<<n)*0x077cb531>>27]; uint32(got) != n {
			t.Errorf("bit %d is at position %d", n, got)
		}
	}
}
