// SPDX-License-Identifier: Apache-2.0

package resolved

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:path=PATH</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`

// startBus starts a bus as the system bus of this process.
func startBus(t *testing.T) {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("needs dbus-daemon")
	}
	dir := t.TempDir()
	socket, config := filepath.Join(dir, "bus"), filepath.Join(dir, "config")
	if err := os.WriteFile(config, []byte(strings.Replace(busConfig, "PATH", socket, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--nofork", "--nopidfile", "--config-file="+config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := dbus.ConnectSystemBus(); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal("the bus does not start")
		}
	}
}

type domain struct {
	Link        int32
	Domain      string
	RoutingOnly bool
}

// fakeManager has the properties of systemd-resolved's manager.
type fakeManager struct {
	mu      sync.Mutex
	domains []domain
}

func (m *fakeManager) set(d []domain) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.domains = d
}

// Get is a method of org.freedesktop.DBus.Properties.
func (m *fakeManager) Get(_, name string) (dbus.Variant, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name != "Domains" {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", nil)
	}
	return dbus.MakeVariant(m.domains), nil
}

// serve answers as systemd-resolved does. set changes the domains, with a signal.
func serve(t *testing.T) (set func([]domain), stop func()) {
	t.Helper()
	c, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeManager{}
	if err := c.Export(m, path, "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RequestName(name, 0); err != nil {
		t.Fatal(err)
	}
	return func(d []domain) {
		m.set(d)
		changed := map[string]dbus.Variant{"DNS": dbus.MakeVariant("")}
		if err := c.Emit(path, "org.freedesktop.DBus.Properties.PropertiesChanged", manager, changed, []string{}); err != nil {
			t.Error(err)
		}
	}, func() { _ = c.Close() }
}

// TestDomains: the domains follow those of systemd-resolved, and are gone when it exits.
func TestDomains(t *testing.T) {
	startBus(t)
	if _, err := Domains(t.Context()); err == nil {
		t.Error("no error without systemd-resolved")
	}
	got := make(chan []string, 8)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		Watch(ctx, func(d []string) { got <- d })
		close(done)
	}()
	next := func(what string, want ...string) {
		t.Helper()
		select {
		case d := <-got:
			if !slices.Equal(d, want) {
				t.Errorf("%s: %v, want %v", what, d, want)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: no update", what)
		}
	}
	time.Sleep(50 * time.Millisecond) // Watch starts before systemd-resolved
	set, stop := serve(t)
	set([]domain{{2, "corp.example", true}, {3, "lan", false}, {3, "corp.example", false}, {2, ".", true}})
	next("first", "corp.example", "lan")
	if d, err := Domains(t.Context()); err != nil || !slices.Equal(d, []string{"corp.example", "lan"}) {
		t.Errorf("%v, %v", d, err)
	}
	set([]domain{{2, "other.example", true}})
	next("changed", "other.example")
	stop()
	next("exited")
	cancel()
	<-done
}
