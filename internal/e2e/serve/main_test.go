// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/status"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// upstream is a server over TLS for the instances.
type upstream struct {
	*dnstest.Server
	settings string // of sotto.toml
}

func startUpstream(t *testing.T) *upstream {
	t.Helper()
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		t.Fatal(err)
	}
	srv, at := e2e.ServeLoopback(t, ca, zone)
	file := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, file, string(ca.PEM()))
	return &upstream{srv, fmt.Sprintf("upstream = [%q]\nca-file = %q\n", at+"#"+e2e.UpstreamName, file)}
}

// freePort returns a loopback address that nothing uses.
func freePort(t *testing.T) string {
	t.Helper()
	l, pc, err := dnstest.ListenPlain(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer pc.Close()
	return l.Addr().String()
}

// instance is a `sotto serve`.
type instance struct {
	t       *testing.T
	program string
	at      string // where it listens
	control string
	metrics string
	cmd     *exec.Cmd
	done    chan struct{}

	mu  sync.Mutex
	out bytes.Buffer
}

func (i *instance) Write(b []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.out.Write(b)
}

func (i *instance) log() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.out.String()
}

// start starts an instance with more settings, and waits until it is ready.
func start(t *testing.T, up *upstream, settings string) *instance {
	t.Helper()
	dir := t.TempDir()
	i := &instance{t: t, program: e2e.Build(t), at: freePort(t), metrics: freePort(t), control: filepath.Join(dir, "control.sock"), done: make(chan struct{})}
	file := filepath.Join(dir, "sotto.toml")
	e2e.WriteFile(t, file, fmt.Sprintf("listen = [%q]\ncontrol = %q\nmetrics = %q\n", i.at, i.control, i.metrics)+up.settings+settings)
	i.cmd = exec.Command(i.program, "serve", "--config", file)
	i.cmd.Env = append(os.Environ(), e2e.RaceEnv)
	i.cmd.Stdout, i.cmd.Stderr = i, i
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = i.cmd.Wait() // the status is compared
		close(i.done)
	}()
	t.Cleanup(func() {
		_ = i.cmd.Process.Kill()
		<-i.done
		if t.Failed() {
			t.Logf("sotto wrote:\n%s", i.log())
		}
	})
	e2e.Eventually(t, "sotto to be ready", i.ready)
	return i
}

// ready reports what `sotto status --ready` reports.
func (i *instance) ready() bool {
	cmd := exec.Command(i.program, "status", "--ready", "--control", i.control)
	cmd.Env = append(os.Environ(), e2e.RaceEnv)
	return cmd.Run() == nil
}

// status returns the state of the instance as JSON, and decoded.
func (i *instance) status() (text string, s status.Status) {
	i.t.Helper()
	cmd := exec.Command(i.program, "status", "--json", "--control", i.control)
	cmd.Env = append(os.Environ(), e2e.RaceEnv)
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil {
		i.t.Fatalf("status: %v", err)
	}
	return string(out), s
}

// ask asks for the address of a name once.
func (i *instance) ask(network, name string) error {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.TypeA)
	c := dns.Client{Net: network, Timeout: 20 * time.Second}
	r, _, err := c.Exchange(m, i.at)
	if err == nil && (r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 || !strings.HasSuffix(r.Answer[0].String(), "192.0.2.1")) {
		err = fmt.Errorf("%v", r)
	}
	return err
}

func (i *instance) stop() {
	i.t.Helper()
	if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		i.t.Fatal(err)
	}
}
