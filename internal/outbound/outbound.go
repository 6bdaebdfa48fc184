// SPDX-License-Identifier: Apache-2.0

package outbound

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options are the properties of sockets. The zero value leaves them to the kernel.
type Options struct {
	// Source4 and Source6 are the source addresses of each family. If only one is set, a
	// connection of the other family fails, so that none leaves from another address.
	Source4, Source6 netip.Addr
	// Device is the network device that packets leave by (SO_BINDTODEVICE); "": any.
	Device string
	// Mark is the firewall mark (SO_MARK), by which rules of `ip rule` and of nftables select the
	// packets; 0: none. It needs CAP_NET_ADMIN.
	Mark uint32
}

// Control is a function of [net.Dialer] and [net.ListenConfig]. It is called with every socket
// before that is used.
type Control = func(network, address string, c syscall.RawConn) error

// IsZero reports whether o leaves everything to the kernel.
func (o Options) IsZero() bool { return o == Options{} }

// String returns the options as text, for keys and logs.
func (o Options) String() string {
	var parts []string
	for _, a := range []netip.Addr{o.Source4, o.Source6} {
		if a.IsValid() {
			parts = append(parts, "from "+a.String())
		}
	}
	if o.Device != "" {
		parts = append(parts, "by "+o.Device)
	}
	if o.Mark != 0 {
		parts = append(parts, fmt.Sprintf("mark %#x", o.Mark))
	}
	return strings.Join(parts, ", ")
}

// Control returns a function that calls next, unless that is nil, and then sets the options. An
// error names the setting, the socket's destination and the fix.
//
// A socket that is going to connect is bound to the source address. One that will be bound by its
// owner (whose address has port 0) has to be bound to [Options.Source]; with any other address
// Control returns an error.
func (o Options) Control(next Control) Control {
	if o.IsZero() {
		return next
	}
	return func(network, address string, c syscall.RawConn) (err error) {
		if next != nil {
			if err := next(network, address, c); err != nil {
				return err
			}
		}
		if e := c.Control(func(fd uintptr) { err = o.apply(int(fd), network, address) }); e != nil {
			return e
		}
		return err
	}
}

// noSourceError means that only the other family has a source address. It is EAFNOSUPPORT: what
// connects to a server with addresses of both families handles it as if the machine lacked the
// family.
type noSourceError string

func (family noSourceError) Error() string {
	return fmt.Sprintf("source-address has no %s address, so nothing is sent to an %[1]s server: add one, or remove the server", string(family))
}

// Is implements the interface that [errors.Is] uses.
func (noSourceError) Is(target error) bool { return target == unix.EAFNOSUPPORT }

// Source returns the source address of sockets of a network whose name ends in 4 or 6, such as
// "udp4". It is the zero address if the kernel selects it, and an error that is [unix.EAFNOSUPPORT]
// if only the other family has one.
func (o Options) Source(network string) (netip.Addr, error) {
	if !o.Source4.IsValid() && !o.Source6.IsValid() {
		return netip.Addr{}, nil
	}
	source, family := o.Source4, "IPv4"
	if strings.HasSuffix(network, "6") {
		source, family = o.Source6, "IPv6"
	}
	if !source.IsValid() {
		return source, noSourceError(family)
	}
	return source, nil
}

// apply sets the options of one socket.
func (o Options) apply(fd int, network, address string) error {
	if o.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark)); err != nil {
			return explain(fmt.Sprintf("mark = %#x", o.Mark), address, err)
		}
	}
	if o.Device != "" {
		if err := unix.BindToDevice(fd, o.Device); err != nil {
			return explain(fmt.Sprintf("device = %q", o.Device), address, err)
		}
	}
	source, err := o.Source(network)
	if err != nil || !source.IsValid() {
		return err
	}
	if at, err := netip.ParseAddrPort(address); err != nil || at.Port() == 0 {
		if err != nil || at.Addr().Unmap() != source {
			return fmt.Errorf("source-address = %q: this protocol does not support it: use another one, or mark and device", source)
		}
		return nil // the owner binds it
	}
	if err := bind(fd, source); err != nil {
		return explain(fmt.Sprintf("source-address = %q", source), address, err)
	}
	return nil
}

// bind binds a socket to an address, with a port that the kernel selects when it connects.
func bind(fd int, source netip.Addr) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	if source.Is4() {
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: source.As4()})
	}
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: source.As16()})
}

// explain adds what failed, where, and the fix.
func explain(setting, address string, err error) error {
	fix := ""
	switch {
	case errors.Is(err, unix.EPERM):
		fix = ": it needs CAP_NET_ADMIN, which only a start with the setting keeps: restart Sotto with this capability"
	case errors.Is(err, unix.ENODEV):
		fix = ": no such device on this machine (yet): start it, or correct the name"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		fix = ": this machine does not have that address (yet): add it, or correct the setting"
	}
	return fmt.Errorf("connect to %s with %s: %w%s", address, setting, err, fix)
}

// Check reports whether this process may set the mark of a socket. A device and an address may be
// added later, so they are not checked.
func (o Options) Check() error {
	if o.Mark == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark))
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set the firewall mark %#x of a socket: %w: it needs CAP_NET_ADMIN; run Sotto as root or with this capability "+
			"(AmbientCapabilities=CAP_NET_ADMIN in its unit), and restart it, because a running one has dropped it", o.Mark, err)
	}
	return err
}
