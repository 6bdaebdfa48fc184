// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/intercept/guard"
	"sotto/intercept/pins"
)

// flagPreorder is BPF_F_PREORDER (Linux 6.15; older kernels refuse it): run before the
// programs of cgroups below and before those attached without it. It matters beside another
// user of these hooks, such as Cilium's socket load balancer: programs run in the same order
// for requests and replies, and only the first one sees both the original destination and
// the unmodified reply.
const flagPreorder = 0x40

// hook is a program and its attach type.
type hook struct {
	name string
	at   ebpf.AttachType
	prog *ebpf.Program
}

// hooks returns the hooks in the order in which they are attached: hooks that restore come
// before those that redirect, so that every reply to a client is restored. They are detached
// in reverse order. guarded adds the guard's program on the sealed cgroups, which is attached last and
// detached first, so that it never stops a query that no hook could redirect.
func (k *kernel) hooks(guarded bool) []hook {
	all := []hook{
		{"sock_release", ebpf.AttachCgroupInetSockRelease, k.SottoSockRelease},
		{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, k.SottoRecvmsg4},
		{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, k.SottoRecvmsg6},
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, k.SottoGetpeername4},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, k.SottoGetpeername6},
		{"connect4", ebpf.AttachCGroupInet4Connect, k.SottoConnect4},
		{"connect6", ebpf.AttachCGroupInet6Connect, k.SottoConnect6},
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, k.SottoSendmsg4},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, k.SottoSendmsg6},
	}
	if guarded {
		all = append(all, hook{"guard", ebpf.AttachCGroupInetEgress, k.SottoGuardSocket})
	}
	return all
}

// hasOtherGroups reports whether hooks are pinned on an existing cgroup that is not in
// wanted.
func (k *kernel) hasOtherGroups(wanted []cgroup.Group, paths *cgroup.Paths) bool {
	all, err := pins.Hooks(k.dir)
	return err != nil || slices.ContainsFunc(all, func(pin string) bool {
		id, ok := pins.CgroupOf(pin)
		return ok && !slices.ContainsFunc(wanted, func(g cgroup.Group) bool { return g.ID == id }) && !paths.Removed(id)
	})
}

// withoutHooks returns those of groups that no process of the instance has sealed yet.
func (k *kernel) withoutHooks(groups []cgroup.Group) []cgroup.Group {
	return slices.DeleteFunc(slices.Clone(groups), func(g cgroup.Group) bool {
		_, err := os.Stat(pins.Hook(k.dir, "connect4", g.ID))
		return err == nil
	})
}

// attach attaches the hooks to the cgroups and pins them. It replaces the programs in the
// hooks of an earlier process atomically, and detaches that process's hooks on other
// cgroups, unless they are in use (see inUse). If it fails it detaches the new hooks.
func (k *kernel) attach(groups []cgroup.Group, paths *cgroup.Paths, guarded bool) (err error) {
	var added []string
	defer func() {
		if err != nil {
			slices.Reverse(added)
			err = errors.Join(err, pins.Detach(added))
		}
	}()
	for _, h := range k.hooks(guarded) {
		for _, g := range groups {
			pin := pins.Hook(k.dir, h.name, g.ID)
			if pins.ReplaceOn(pin, g.ID, h.prog) == nil {
				continue
			}
			if err := attachHook(h, g, pin); err != nil {
				return fmt.Errorf("attach %s to %s: %w", h.name, g.Path, err)
			}
			added = append(added, pin)
		}
	}
	return k.detachOthers(groups, paths, guarded)
}

// detachOthers detaches the hooks on other cgroups than groups, unless they are in use.
func (k *kernel) detachOthers(groups []cgroup.Group, paths *cgroup.Paths, guarded bool) error {
	all, err := pins.Hooks(k.dir)
	if err != nil {
		return err
	}
	hooks := k.hooks(guarded)
	return pins.Detach(slices.DeleteFunc(all, func(pin string) bool {
		id, _ := pins.CgroupOf(pin)
		n := slices.IndexFunc(hooks, func(h hook) bool { return pin == pins.Hook(k.dir, h.name, id) })
		return n >= 0 && (slices.ContainsFunc(groups, func(g cgroup.Group) bool { return g.ID == id }) || inUse(pin, id, hooks[n], paths))
	}))
}

// inUse reports whether a hook is pinned on a removed cgroup that still has sockets: programs that
// have left the cgroup may send with them, and only this hook seals them. The kernel detaches it some
// time after the last socket is closed (cgroup_bpf_release in kernel/bpf/cgroup.c). Its program is
// replaced by that of h.
func inUse(pin string, id uint64, h hook, paths *cgroup.Paths) bool {
	return paths.Removed(id) && pins.ReplaceOn(pin, id, h.prog) == nil
}

func attachHook(h hook, g cgroup.Group, pin string) error {
	dir, err := os.Open(g.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	if st.Ino != g.ID { // its hooks would have the name of another one's
		return errors.New("the cgroup was created again at this moment: try again")
	}
	// A pin that could not be updated is that of a removed cgroup.
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	opts := bpflink.RawLinkOptions{Target: int(dir.Fd()), Program: h.prog, Attach: h.at, Flags: flagPreorder}
	l, err := bpflink.AttachRawLink(opts)
	if errors.Is(err, unix.EINVAL) {
		opts.Flags = 0
		l, err = bpflink.AttachRawLink(opts)
	}
	if err != nil {
		return err
	}
	return errors.Join(l.Pin(pin), l.Close())
}

// detachRedirects detaches the hooks that redirect queries. Those that restore replies and
// release slots stay, for sockets that are already redirected.
func detachRedirects(dir string) error {
	all, err := pins.Hooks(dir)
	if err != nil {
		return err
	}
	return pins.Detach(slices.DeleteFunc(all, func(pin string) bool {
		return !pins.IsHook(pin, "connect") && !pins.IsHook(pin, "sendmsg")
	}))
}

// detachAll detaches all hooks of an instance: the guard first, then those that redirect.
func detachAll(dir string) error {
	all, err := pins.Hooks(dir)
	if err != nil {
		return err
	}
	order := func(pin string) int {
		for i, name := range []string{"guard", "connect", "sendmsg"} {
			if pins.IsHook(pin, name) {
				return i
			}
		}
		return 3
	}
	slices.SortFunc(all, func(a, b string) int { return order(a) - order(b) })
	return pins.Detach(all)
}

// removePins removes the pins of an instance, and with them its hooks and maps.
func removePins(dir string) error {
	if err := errors.Join(detachAll(dir), guard.RemovePins(dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
