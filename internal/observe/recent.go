// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxRecent is the number of messages that are kept.
const maxRecent = 20

// Message is a warning or an error of the log.
type Message struct {
	Time  time.Time `json:"time"`
	Level string    `json:"level"`
	Text  string    `json:"text"` // the message with its attributes
}

// Recent keeps the latest warnings and errors. The zero value is ready for use.
type Recent struct {
	mu   sync.Mutex
	list []Message
}

// Messages returns them, the latest first.
func (r *Recent) Messages() []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := append([]Message{}, r.list...)
	slices.Reverse(out)
	return out
}

func (r *Recent) add(m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) == maxRecent {
		r.list = slices.Delete(r.list, 0, 1)
	}
	r.list = append(r.list, m)
}

// Handler returns a handler that passes everything on to next, and keeps warnings and errors,
// also those below the level of next.
func (r *Recent) Handler(next slog.Handler) slog.Handler { return &tee{next: next, recent: r} }

type tee struct {
	next   slog.Handler
	recent *Recent
	prefix string // of groups, with a final dot
	attrs  string // as text
}

func (t *tee) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || t.next.Enabled(ctx, l)
}

func (t *tee) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		var text strings.Builder
		text.WriteString(r.Message + t.attrs)
		r.Attrs(func(a slog.Attr) bool {
			text.WriteString(attrText(t.prefix, a))
			return true
		})
		t.recent.add(Message{Time: r.Time, Level: r.Level.String(), Text: text.String()})
	}
	if !t.next.Enabled(ctx, r.Level) {
		return nil
	}
	return t.next.Handle(ctx, r)
}

func (t *tee) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *t
	n.next = t.next.WithAttrs(attrs)
	for _, a := range attrs {
		n.attrs += attrText(t.prefix, a)
	}
	return &n
}

func (t *tee) WithGroup(name string) slog.Handler {
	n := *t
	n.next = t.next.WithGroup(name)
	if name != "" {
		n.prefix += name + "."
	}
	return &n
}

func attrText(prefix string, a slog.Attr) string {
	return fmt.Sprintf(" %s%s=%v", prefix, a.Key, a.Value.Resolve())
}
