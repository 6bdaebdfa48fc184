// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"sotto/internal/config"
	"sotto/internal/e2e"
	"sotto/internal/status"
)

// answerStatus listens on a control socket at path, and answers with a status.
func answerStatus(t *testing.T, path string, s status.Status) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(s) })}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }()
}

// TestReplacedOnNode: `service-stop` accepts a configuration that needs the cluster of the kubelet, as `run` does.
func TestReplacedOnNode(t *testing.T) {
	dir := t.TempDir()
	path, kubelet, socket := filepath.Join(dir, "sotto.toml"), filepath.Join(dir, "kubelet.yaml"), filepath.Join(dir, "control.sock")
	e2e.WriteFile(t, kubelet, "clusterDomain: cluster.local\nclusterDNS: [10.96.0.10]\n")
	e2e.WriteFile(t, path, "[kubernetes]\ncluster = \"on\"\nkubelet-config = \""+kubelet+"\"\n")
	defaults := config.Default()
	const main = 4711
	answerStatus(t, socket, status.Status{PID: main, Ready: true, Seal: &status.Seal{
		Prefix4: netip.MustParsePrefix(defaults.Prefix4), Prefix6: netip.MustParsePrefix(defaults.Prefix6),
	}})
	var o options
	var c cobra.Command
	o.remoteFlags(c.Flags())
	if err := c.ParseFlags([]string{"--config", path, "--control", socket}); err != nil {
		t.Fatal(err)
	}
	e := &env{getenv: func(string) string { return "" }}
	if err := e.canBeReplaced(t.Context(), &c, &o, main); err != nil {
		t.Error(err)
	}
	if err := e.canBeReplaced(t.Context(), &c, &o, main+1); err == nil || !strings.Contains(err.Error(), "is not process") {
		t.Errorf("another process: %v", err)
	}
	e2e.WriteFile(t, kubelet, "kind: KubeletConfiguration\n")
	if err := e.canBeReplaced(t.Context(), &c, &o, main); err == nil || !strings.Contains(err.Error(), "set cluster-domain and cluster-dns") {
		t.Errorf("without a cluster: %v", err)
	}
}
