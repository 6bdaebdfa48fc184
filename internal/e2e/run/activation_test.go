// SPDX-License-Identifier: Apache-2.0

package run

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"

	"sotto/internal/e2e"
)

// TestSocketActivation checks that `serve` answers on sockets that a service manager passes: of
// one address, of all addresses of a family, and of both families. The replies come from the
// address that was asked.
func TestSocketActivation(t *testing.T) {
	for listen, servers := range map[string][]string{
		"127.0.0.1:53": {"127.0.0.1"},
		"0.0.0.0:53":   {"127.0.0.1", "127.0.0.2"},
		"[::]:53":      {"127.0.0.1", "::1"},
	} {
		t.Run(listen, func(t *testing.T) {
			w := newWorld(t)
			var files []*os.File
			err := w.Host.Do(func() error {
				u, err := net.ListenPacket("udp", listen)
				if err != nil {
					return err
				}
				defer u.Close()
				l, err := net.Listen("tcp", listen)
				if err != nil {
					return err
				}
				defer l.Close()
				for _, c := range []interface{ File() (*os.File, error) }{u.(*net.UDPConn), l.(*net.TCPListener)} {
					f, err := c.File()
					if err != nil {
						return err
					}
					files = append(files, f)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			// The variables have to name the process of sotto itself.
			args := append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@"`, w.Program.Path, "serve"}, w.UpstreamArgs()...)
			cmd := w.Host.Command(context.Background(), nil, "sh", args...)
			cmd.Env = append(os.Environ(), e2e.RaceEnv)
			cmd.ExtraFiles = files
			p, err := w.LaunchCommand(cmd)
			if err != nil {
				t.Fatal(err)
			}
			w.WaitReady(p, "answering on sockets of the service manager")
			for _, f := range files {
				_ = f.Close() // a duplicate
			}
			for _, server := range servers {
				for _, option := range []string{"+notcp", "+tcp"} {
					if out := w.Dig(w.Host, nil, option, "+timeout=20", "@"+server, "activated.example"); !strings.Contains(out, e2e.Sealed4) {
						t.Errorf("dig %s @%s:\n%s", option, server, out)
					}
				}
			}
			w.Stop(p)
		})
	}
}

// TestSocketActivationInvalid checks the error for a socket unit without ListenStream=.
func TestSocketActivationInvalid(t *testing.T) {
	w := newWorld(t)
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	f, err := u.File()
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, w.Program.Path, "serve"}, w.UpstreamArgs()...)
	cmd := w.Host.Command(context.Background(), nil, "sh", args...)
	cmd.Env = os.Environ()
	cmd.ExtraFiles = []*os.File{f}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "ListenStream=") {
		t.Errorf("%v: %s", err, out)
	}
}
