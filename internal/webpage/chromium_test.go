// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	chromium = "/usr/bin/chromium"

	// minWindow is the least width of a window.
	minWindow = 500

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

// frame shows the page with the width of a phone, which windows of Chromium cannot have. It
// copies the size of the page and a word of it to its own document.
const frame = `<!DOCTYPE html><body style="margin:0"><iframe src="/" width="%d" height="2400" frameborder="0"></iframe><script>
setInterval(() => {
	const page = document.querySelector("iframe").contentDocument;
	if (!page || !page.querySelector("header")) {
		return; // it is loading
	}
	document.body.dataset.size = page.defaultView.innerWidth + " " + page.documentElement.scrollWidth;
	document.body.dataset.text = page.querySelector("header").textContent + page.body.className;
}, 100);
</script>`

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
		if width, ok := strings.CutPrefix(r.URL.Path, "/frame/"); ok {
			n, _ := strconv.Atoi(width)
			fmt.Fprintf(w, frame, n)
			return
		}
		if r.URL.Path == "/" {
			pages.Add(1)
		}
		page := httptest.NewRecorder()
		handler.ServeHTTP(page, r)
		maps.Copy(w.Header(), page.Header())
		w.Header().Set("Content-Security-Policy", strings.Replace(policy, "frame-ancestors 'none'", "frame-ancestors 'self'", 1))
		w.WriteHeader(page.Code)
		_, _ = w.Write(page.Body.Bytes())
	}))
	defer server.Close()
	for _, width := range []int{400, 1280} {
		pages.Store(0)
		url := fmt.Sprintf("%s/frame/%d", server.URL, width)
		document, log := browse(t, url, max(width, minWindow), "--dump-dom")
		if pages.Load() < 2 || !strings.Contains(document, "PID 4711") || strings.Contains(document, "stale") {
			t.Errorf("width %d: requested %d times\n%s", width, pages.Load(), document)
		}
		if size := fmt.Sprintf(`data-size="%d %d"`, width, width); !strings.Contains(document, size) {
			t.Errorf("width %d: the content is not as wide as the window:\n%s", width, document)
		}
		for _, bad := range []string{"Content Security Policy", "Refused to", "Uncaught", "SyntaxError"} {
			if strings.Contains(log, bad) {
				t.Errorf("width %d: the browser logged %q:\n%s", width, bad, log)
			}
		}
		if dir := os.Getenv(screenshotsEnv); dir != "" {
			browse(t, url, max(width, minWindow), "--screenshot="+filepath.Join(dir, fmt.Sprintf("page-%d.png", width)), fmt.Sprintf("--window-size=%d,2400", max(width, minWindow)))
		}
	}
}
