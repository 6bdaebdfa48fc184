// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	chromium = "/usr/bin/chromium"

	// screenshotsEnv names a directory for screenshots, to look at.
	screenshotsEnv = "SOTTO_SCREENSHOTS"
)

// browse opens a page in Chromium and returns its document after a while, and what the browser
// logged. Only loopback addresses may be requested.
func browse(t *testing.T, url string, width int, flags ...string) (document, log string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium, append(append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--no-first-run", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--enable-logging=stderr",
		"--user-data-dir=" + t.TempDir(), fmt.Sprintf("--window-size=%d,1000", width), "--virtual-time-budget=12000",
	}, flags...), url)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, errs.String())
	}
	return out.String(), errs.String()
}

// TestBrowser opens the page in Chromium on a phone and on a desktop: it updates itself, fits
// the width, and violates no policy.
func TestBrowser(t *testing.T) {
	if _, err := os.Stat(chromium); err != nil {
		t.Skip("/usr/bin/chromium is not installed (package chromium)")
	}
	_, h := busy()
	handler := Handler(h, slog.New(slog.DiscardHandler))
	var pages atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		switch r.URL.Path {
		case "/":
			pages.Add(1)
		case "/live.js": // also measures
			fmt.Fprintf(w, "setInterval(() => { document.body.dataset.size = innerWidth + ' ' + document.documentElement.scrollWidth; }, 100);")
		}
	}))
	defer server.Close()
	for _, width := range []int{400, 1280} {
		pages.Store(0)
		document, log := browse(t, server.URL+"/", width, "--dump-dom")
		if pages.Load() < 2 || !strings.Contains(document, "PID 4711") || strings.Contains(document, `class="stale"`) {
			t.Errorf("width %d: requested %d times\n%s", width, pages.Load(), document)
		}
		size := regexp.MustCompile(`data-size="(\d+) (\d+)"`).FindStringSubmatch(document)
		if size == nil {
			t.Fatalf("width %d: not measured", width)
		}
		inner, _ := strconv.Atoi(size[1])
		scroll, _ := strconv.Atoi(size[2])
		t.Logf("width %d: window %d, content %d", width, inner, scroll)
		if inner > max(width, 500) || scroll > inner {
			t.Errorf("width %d: the content is %d wide in a window of %d", width, scroll, inner)
		}
		for _, bad := range []string{"Content Security Policy", "Refused to", "Uncaught", "SyntaxError"} {
			if strings.Contains(log, bad) {
				t.Errorf("width %d: the browser logged %q:\n%s", width, bad, log)
			}
		}
		if dir := os.Getenv(screenshotsEnv); dir != "" {
			browse(t, server.URL+"/", width, "--screenshot="+filepath.Join(dir, fmt.Sprintf("page-%d.png", width)), fmt.Sprintf("--window-size=%d,2200", width))
		}
	}
}
