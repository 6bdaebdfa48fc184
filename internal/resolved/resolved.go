// SPDX-License-Identifier: Apache-2.0

package resolved

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	name       = "org.freedesktop.resolve1"
	path       = dbus.ObjectPath("/org/freedesktop/resolve1")
	manager    = "org.freedesktop.resolve1.Manager"
	properties = "org.freedesktop.DBus.Properties"
)

// interval is the time between two reads without a signal. systemd-resolved signals changes
// of some properties, but not of the domains alone.
const interval = 30 * time.Second

// Domains reads the domains once.
func Domains(ctx context.Context) ([]string, error) {
	c, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	defer c.Close()
	return read(ctx, c)
}

// Watch calls update with the domains now and after changes, until ctx ends. If
// systemd-resolved cannot be reached it calls update without domains, and tries again.
func Watch(ctx context.Context, update func([]string)) {
	var last []string
	set := func(domains []string) {
		if !slices.Equal(domains, last) {
			last = domains
			update(domains)
		}
	}
	for ctx.Err() == nil {
		if watch(ctx, set) != nil && ctx.Err() == nil {
			set(nil)
		}
		select {
		case <-ctx.Done():
		case <-time.After(interval):
		}
	}
}

// watch calls set with the domains until the connection fails or ctx ends.
func watch(ctx context.Context, set func([]string)) error {
	c, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer c.Close()
	signals := make(chan *dbus.Signal, 16) // a full channel drops signals, of which one is enough
	c.Signal(signals)
	err = c.AddMatchSignalContext(ctx, dbus.WithMatchSender(name), dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged"))
	if err != nil {
		return err
	}
	err = c.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name))
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		domains, err := read(ctx, c)
		if err != nil && !c.Connected() {
			return err
		}
		set(domains) // none if systemd-resolved does not run
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-signals:
			if !ok {
				return dbus.ErrClosed
			}
		case <-tick.C:
		}
	}
}

// read reads the property Domains: an array of the link's index, the domain, and whether it
// is for routing only.
func read(ctx context.Context, c *dbus.Conn) ([]string, error) {
	var value dbus.Variant
	err := c.Object(name, path).CallWithContext(ctx, properties+".Get", dbus.FlagNoAutoStart, manager, "Domains").Store(&value)
	if err != nil {
		return nil, fmt.Errorf("read the domains of systemd-resolved: %w", err)
	}
	var domains []struct {
		Link        int32
		Domain      string
		RoutingOnly bool
	}
	if err := dbus.Store([]any{value.Value()}, &domains); err != nil {
		return nil, fmt.Errorf("read the domains of systemd-resolved: %w", err)
	}
	var out []string
	for _, d := range domains {
		// "." makes the nameservers of a link those for all names.
		if domain := strings.TrimPrefix(d.Domain, "~"); domain != "." && domain != "" {
			out = append(out, domain)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
