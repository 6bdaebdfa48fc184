// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// flagPreorder is BPF_F_PREORDER: run before the programs of cgroups below and
// before those attached without it. It matters next to another user of these
// hooks, such as Cilium's socket load balancer: the order is the same on the way
// out and on the way back, and only the first sees both what the client meant and
// what came back. Linux 6.15; older ones refuse it.
const flagPreorder = 0x40

// hook is a program and where it goes.
type hook struct {
	name string
	at   ebpf.AttachType
	prog *ebpf.Program
}

// hooks in the order in which they are attached: what restores comes before what
// redirects, so that no reply meets a client unrestored. They are detached in
// reverse order.
func (k *kernel) hooks() []hook {
	return []hook{
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
}

// guardHook stops what leaves past those. It comes last and goes first, so that it
// never stops what nobody would have led elsewhere.
func (k *kernel) guardHook() hook {
	return hook{"guard", ebpf.AttachCGroupInetEgress, k.SottoGuardSocket}
}

const linkPrefix = "link_"

// linkPin names the pin of a hook on a cgroup.
func linkPin(dir, hook string, id uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%s%s_%x", linkPrefix, hook, id))
}

// linkGroup is the cgroup that a link's pin names.
func linkGroup(pin string) (id uint64, ok bool) {
	base := filepath.Base(pin)
	if !strings.HasPrefix(base, linkPrefix) {
		return 0, false
	}
	id, err := strconv.ParseUint(base[strings.LastIndexByte(base, '_')+1:], 16, 64)
	return id, err == nil
}

// linkPins returns the pins of all hooks of an instance.
func linkPins(dir string) ([]string, error) {
	pins, err := filepath.Glob(filepath.Join(dir, linkPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list pinned hooks: %w", err)
	}
	return pins, nil
}

// leavesGroups tells whether hooks are pinned on a cgroup that lives and is not
// among those wanted.
func (k *kernel) leavesGroups(wanted []group, w *workloads) bool {
	pins, err := linkPins(k.dir)
	return err != nil || slices.ContainsFunc(pins, func(pin string) bool {
		id, ok := linkGroup(pin)
		return ok && !slices.ContainsFunc(wanted, func(g group) bool { return g.ID == id }) && !w.gone(id)
	})
}

// unhooked returns those of the groups that no process of the instance has sealed yet.
func (k *kernel) unhooked(groups []group) []group {
	return slices.DeleteFunc(slices.Clone(groups), func(g group) bool {
		_, err := os.Stat(linkPin(k.dir, "connect4", g.ID))
		return err == nil
	})
}

// hooked tells whether an earlier process of the instance left hooks.
func hooked(dir string) (bool, error) {
	pins, err := linkPins(dir)
	return len(pins) > 0, err
}

// attach hooks the programs to the cgroups, pinned at once. Where an earlier
// process left its hook, the program in it is replaced, with nothing in between.
// A failure takes away the hooks that are new.
func (k *kernel) attach(groups []group, guarded bool) (err error) {
	var fresh []string
	defer func() {
		if err != nil {
			slices.Reverse(fresh)
			err = errors.Join(err, detach(fresh))
		}
	}()
	keep := make(map[string]bool)
	hooks := k.hooks()
	if guarded {
		hooks = append(hooks, k.guardHook())
	}
	for _, h := range hooks {
		for _, g := range groups {
			pin := linkPin(k.dir, h.name, g.ID)
			keep[pin] = true
			if replaceProgram(pin, h.prog) == nil {
				continue
			}
			if err := attachHook(h, g, pin); err != nil {
				return fmt.Errorf("attach %s to %s: %w", h.name, g.Path, err)
			}
			fresh = append(fresh, pin)
		}
	}
	pins, err := linkPins(k.dir)
	if err != nil {
		return err
	}
	return detach(slices.DeleteFunc(pins, func(pin string) bool { return keep[pin] }))
}

// replaceProgram gives a pinned hook another program.
func replaceProgram(pin string, prog *ebpf.Program) error {
	l, err := bpflink.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Update(prog), l.Close())
}

func attachHook(h hook, g group, pin string) error {
	dir, err := os.Open(g.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	// A pin that could not be updated is of a hook whose cgroup is gone.
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

// detach takes hooks away at once, not when the last descriptor goes, and then
// their pins.
func detach(pins []string) error {
	var errs []error
	for _, pin := range pins {
		if l, err := bpflink.LoadPinnedLink(pin, nil); err == nil {
			// ENOLINK and the like: its cgroup went and took it along.
			_ = l.Detach()
			errs = append(errs, l.Close())
		}
		if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove hook %s: %w", pin, err))
		}
	}
	return errors.Join(errs...)
}

// detachRedirects detaches the hooks that redirect queries. Those that restore replies and
// release slots stay, for the sockets that are redirected already.
func detachRedirects(dir string) error {
	pins, err := linkPins(dir)
	if err != nil {
		return err
	}
	return detach(slices.DeleteFunc(pins, func(pin string) bool {
		base := filepath.Base(pin)
		return !strings.HasPrefix(base, linkPrefix+"connect") && !strings.HasPrefix(base, linkPrefix+"sendmsg")
	}))
}

// detachAll detaches all hooks of an instance, those that redirect first.
func detachAll(dir string) error {
	pins, err := linkPins(dir)
	if err != nil {
		return err
	}
	redirects := func(pin string) int {
		for i, name := range []string{"guard", "connect", "sendmsg"} {
			if strings.HasPrefix(filepath.Base(pin), linkPrefix+name) {
				return i
			}
		}
		return 3
	}
	slices.SortFunc(pins, func(a, b string) int { return redirects(a) - redirects(b) })
	return detach(pins)
}

// removePins takes the pins of an instance away, hooks first.
func removePins(dir string) error {
	if err := errors.Join(detachAll(dir), clearTCX(dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
