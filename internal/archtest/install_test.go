// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// installer runs scripts/install.sh --from URL with one downloader, which trusts the server.
func installer(t *testing.T, downloader string, server *httptest.Server) (output string, err error) {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	for _, name := range []string{downloader, "sh", "id", "sed", "grep", "mktemp", "rm", "uname", "sha256sum", "tar", "mkdir"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("needs %s", name)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	ca := filepath.Join(dir, "ca.pem")
	rc := filepath.Join(dir, "wgetrc")
	for path, text := range map[string]string{
		ca: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
		rc: "ca_certificate = " + ca + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(root(t), "scripts/install.sh"), "--from", server.URL)
	cmd.Env = []string{"PATH=" + bin, "DESTDIR=" + dir, "TMPDIR=" + dir, "HOME=" + dir, "CURL_CA_BUNDLE=" + ca, "WGETRC=" + rc}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestInstallRefusesPlainHTTP: install.sh downloads over TLS, and follows no redirection of an https
// server to http. What it downloads is verified by a file from the same server only.
func TestInstallRefusesPlainHTTP(t *testing.T) {
	sums := ""
	for _, arch := range []string{"amd64", "arm64"} {
		sums += fmt.Sprintf("%064d  sotto-1.0-linux-%s.tar.gz\n", 0, arch)
	}
	for _, downloader := range []string{"curl", "wget"} {
		t.Run(downloader, func(t *testing.T) {
			var plain, archive atomic.Int64
			insecure := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				plain.Add(1)
				fmt.Fprint(w, sums)
			}))
			defer insecure.Close()
			var redirect atomic.Bool
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case redirect.Load():
					http.Redirect(w, r, insecure.URL+r.URL.Path, http.StatusFound)
				case r.URL.Path == "/SHA256SUMS":
					fmt.Fprint(w, sums)
				default:
					archive.Add(1)
					http.NotFound(w, r)
				}
			}))
			defer server.Close()
			if out, err := installer(t, downloader, server); err == nil || !strings.Contains(out, "could not download "+server.URL+"/sotto-1.0-linux-") || archive.Load() == 0 {
				t.Errorf("without a redirection: %v, %s", err, out)
			}
			redirect.Store(true)
			if out, err := installer(t, downloader, server); err == nil || !strings.Contains(out, "could not download "+server.URL+"/SHA256SUMS") || plain.Load() != 0 {
				t.Errorf("with a redirection to http: %v, %d requests over http, %s", err, plain.Load(), out)
			}
		})
	}
}
