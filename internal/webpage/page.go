// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"bytes"
	"embed"
	"log/slog"
	"net/http"
	"time"
)

//go:embed style.css live.js
var files embed.FS

// policy permits nothing but this server's style sheet and script, and requests of the script.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler returns the handler of the page and its files. The caller runs h.
func Handler(h *History, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		var out bytes.Buffer
		v := newView(h.from.Status(), h.series(), h.from.Hub.Workloads(), h.from.Hub.WorkloadName, time.Now())
		if err := document(v).Render(&out); err != nil {
			log.Error("cannot make the web page", "err", err)
			http.Error(w, "cannot make the page: the log has the reason", http.StatusInternalServerError)
			return
		}
		send(w, "text/html; charset=utf-8", out.Bytes())
	})
	for name, kind := range map[string]string{"style.css": "text/css; charset=utf-8", "live.js": "text/javascript; charset=utf-8"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			text, err := files.ReadFile(name)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			send(w, kind, text)
		})
	}
	return mux
}

func send(w http.ResponseWriter, kind string, body []byte) {
	for name, value := range map[string]string{
		"Content-Type": kind, "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		"Cache-Control": "no-store",
	} {
		w.Header().Set(name, value)
	}
	_, _ = w.Write(body) // the client has disconnected
}
