// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"sotto/forwarder/rules"
)

const (
	// maxBytes is the maximum length of a list: five million names of usual length.
	maxBytes = 128 << 20

	// fetchTimeout limits one fetch.
	fetchTimeout = 10 * time.Minute

	// startLen is how far a list is searched for its first character.
	startLen = 512

	// minShare is the part of its names, one in minShare, that a list may shrink to.
	minShare = 10
)

// ErrBroken means that a server sent something that is not the list that was expected.
var ErrBroken = errors.New("the list is broken")

// Fetcher fetches lists into a store.
type Fetcher struct {
	Store  Store
	Client *http.Client // see [NewClient]

	limit int64 // maximum length of a list in bytes; 0: maxBytes
}

// Fetch fetches a list, unless the server confirms that the stored one is current. It reports
// whether the names have changed. old describes the stored list; with the zero value the list is
// fetched in any case. After an error the stored list is as it was.
func (f *Fetcher) Fetch(ctx context.Context, url string, old Info) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	var c net.Conn // of the last request
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { c = i.Conn }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	setConditions(req.Header, old)
	resp, err := f.Client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && old.URL != "":
		return false, f.Store.touch(url, time.Now())
	case resp.StatusCode != http.StatusOK:
		return false, fmt.Errorf("the server answered %s", resp.Status)
	}
	w, err := f.Store.create(url)
	if err != nil {
		return false, fmt.Errorf("store the list: %w: let Sotto's user write to list-dir, or set it to another directory", err)
	}
	if err := errors.Join(w.receive(resp, c, cmp.Or(f.limit, maxBytes)), w.sum()); err != nil {
		return false, errors.Join(err, w.discard())
	}
	if err := w.info.check(old, f.Store.Path(url)); err != nil {
		return false, errors.Join(err, w.discard())
	}
	now := time.Now()
	w.info.Fetched = now
	if changed = w.info.Hash != old.Hash; !changed {
		w.info.Fetched = old.Fetched
	}
	if err := w.commit(now); err != nil {
		return false, fmt.Errorf("store the list: %w", err)
	}
	return changed, nil
}

// setConditions asks for the list only if it differs from the stored one (RFC 9110 §13.1).
func setConditions(h http.Header, old Info) {
	h.Set("User-Agent", "sotto")
	if old.ETag != "" {
		h.Set("If-None-Match", old.ETag)
	}
	if old.Modified != "" {
		h.Set("If-Modified-Since", old.Modified)
	}
}

// receive writes the names in a response of at most limit bytes, which arrives over c.
func (w *writer) receive(resp *http.Response, c net.Conn, limit int64) error {
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && strings.Contains(kind, "html") {
		return fmt.Errorf("%w: the server sent a web page", ErrBroken)
	}
	limited := &io.LimitedReader{R: resp.Body, N: limit + 1}
	body := bufio.NewReader(limited)
	start, _ := body.Peek(startLen) // an error is returned again below
	if strings.HasPrefix(strings.TrimLeft(string(start), "\ufeff \t\r\n"), "<") {
		return fmt.Errorf("%w: the server sent a web page", ErrBroken)
	}
	err := rules.ScanNames(body, func(name string) error {
		if !isHostName(name) {
			w.info.Skipped++
			return nil
		}
		return w.add(name)
	}, func(error) error {
		w.info.Skipped++
		return nil
	})
	switch {
	case limited.N <= 0:
		return fmt.Errorf("%w: it is longer than %d MiB", ErrBroken, limit>>20)
	case errors.Is(err, io.ErrUnexpectedEOF), err == nil && endsWithConn(resp) && isCut(c):
		return fmt.Errorf("%w: the transfer ended early", ErrBroken)
	case err != nil:
		return fmt.Errorf("receive the list: %w", err)
	}
	w.info.ETag, w.info.Modified = field(resp, "ETag"), field(resp, "Last-Modified")
	return nil
}

// endsWithConn reports whether only the end of the connection marks the end of a response (RFC
// 9112 §6.3). A compressed one has its own end.
func endsWithConn(resp *http.Response) bool {
	return resp.ProtoMajor == 1 && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 && !resp.Uncompressed
}

func field(resp *http.Response, key string) string {
	if v := resp.Header.Get(key); len(v) <= maxField {
		return v
	}
	return ""
}

// isHostName reports whether a name has at least two labels, of letters, digits, hyphens and
// underscores only. A line of text in an error message hardly ever does.
func isHostName(name string) bool {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "="), ".")
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return strings.Contains(name, ".")
}

// check returns an error if a new list is not plausible. file is where the old one is.
func (i *Info) check(old Info, file string) error {
	switch {
	case i.Names == 0:
		return fmt.Errorf("%w: it has no name", ErrBroken)
	case i.Skipped > i.Names:
		return fmt.Errorf("%w: it has %d names and %d other lines: want a list of names, a hosts file, or ||NAME^ lines", ErrBroken, i.Names, i.Skipped)
	case i.Names < old.Names/minShare:
		return fmt.Errorf("%w: it has %d names, and had %d: if that is right, remove %s and run 'sotto lists update'", ErrBroken, i.Names, old.Names, file)
	}
	return nil
}
