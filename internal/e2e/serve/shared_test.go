// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"sotto/internal/e2e"
)

// startRedis starts redis-server with a password, and returns its address.
func startRedis(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed")
	}
	at := freePort(t)
	_, port, _ := net.SplitHostPort(at)
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir(), "--requirepass", "pass")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	return at
}

// TestSharedCache: a second instance answers from what the first has stored; the status has the
// figures of both, as its schema says, and so have the metrics. Removing answers makes an instance
// ask its upstream again. An instance whose group has other settings shares nothing.
func TestSharedCache(t *testing.T) {
	at := startRedis(t)
	dir := t.TempDir()
	e2e.WriteFile(t, filepath.Join(dir, "password"), "pass\n")
	e2e.WriteFile(t, filepath.Join(dir, "secret"), strings.Repeat("secret", 8))
	settings := fmt.Sprintf("shared-cache = \"redis://%s/2\"\nshared-cache-password-file = %q\nshared-cache-secret-file = %q\nshared-cache-timeout = \"50ms\"\n",
		at, dir+"/password", dir+"/secret")
	up := startUpstream(t)
	first := start(t, up, settings)
	works := func(i *instance) func() bool {
		return func() bool { _, s := i.status(); return s.SharedCache != nil && s.SharedCache.State == "up" }
	}
	e2e.Eventually(t, "the shared cache of the first", works(first))
	const names = 20
	askAll := func(i *instance) {
		t.Helper()
		for n := range names {
			if err := i.ask("udp", fmt.Sprintf("n%d.example", n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	askAll(first)
	e2e.Eventually(t, "the answers to be stored", func() bool { _, s := first.status(); return s.SharedCache.Written == names })
	before := up.Stats().Queries()

	second := start(t, up, settings)
	e2e.Eventually(t, "the shared cache of the second", works(second))
	askAll(second)
	text, s := second.status()
	c := s.SharedCache
	if s.Queries.Source["shared"]+c.Timeouts < names || c.Found+c.Timeouts != names || c.Address != at || c.LastError != "" {
		t.Errorf("%+v %v", *c, s.Queries.Source)
	}
	if n := up.Stats().Queries() - before; n > c.Timeouts {
		t.Errorf("the upstream received %d queries of the second instance", n)
	}
	validStatus(t, text)
	if m := second.scrape(t); !strings.Contains(m, fmt.Sprintf("sotto_shared_cache_lookups_total{result=\"found\"} %d\n", c.Found)) || !strings.Contains(m, "sotto_shared_cache_up 1\n") {
		t.Errorf("metrics:\n%s", m)
	}

	before = up.Stats().Queries()
	if out, err := exec.Command(second.program, "cache", "flush", "--control", second.control).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	askAll(second)
	if n := up.Stats().Queries() - before; n != names {
		t.Errorf("the upstream received %d queries after the answers were removed", n)
	}

	before = up.Stats().Queries()
	other := start(t, up, settings+"policy = \"random\"\n")
	e2e.Eventually(t, "the shared cache of the other", works(other))
	askAll(other)
	if n := up.Stats().Queries() - before; n != names {
		t.Errorf("the upstream received %d queries of an instance with other settings", n)
	}
}

// validStatus checks a state against its schema in docs.
func validStatus(t *testing.T, text string) {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../../../docs/status.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err == nil {
		err = schema.Validate(v)
	}
	if err != nil {
		t.Errorf("status: %v", err)
	}
}

// scrape returns the metrics of the instance.
func (i *instance) scrape(t *testing.T) string {
	t.Helper()
	r, err := http.Get("http://" + i.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
