// SPDX-License-Identifier: Apache-2.0

package querylog

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/wire"
)

func TestHash(t *testing.T) {
	var h, other hasher
	morning := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	hash := func(h *hasher, name string, now time.Time) string {
		n, err := wire.AppendParsed(nil, name)
		if err != nil {
			t.Fatal(err)
		}
		got := h.name(n, now)
		if !regexp.MustCompile(`^([0-9a-f]{16}\.)+$`).MatchString(got) || strings.Count(got, ".") != strings.Count(name, ".") {
			t.Errorf("%s: %s", name, got)
		}
		return got
	}
	evening := morning.Add(24*time.Hour - time.Nanosecond)
	www := hash(&h, "www.example.com.", morning)
	if got := hash(&h, "WwW.Example.COM.", evening.In(time.FixedZone("", -10*3600))); got != www {
		t.Errorf("the same name on one day: %s, %s", www, got)
	}
	// Names below a domain share its labels, which depend on all labels after them.
	labels := strings.SplitAfter(www, ".")
	if got := hash(&h, "mail.example.com.", evening); got[:17] == www[:17] || got[17:] != www[17:] {
		t.Errorf("another name in the domain: %s, %s", www, got)
	}
	if got := hash(&h, "www.example.", evening); strings.Contains(got, labels[0]) || strings.Contains(got, labels[1]) {
		t.Errorf("another domain with equal labels: %s, %s", www, got)
	}
	// A guess cannot be compared with a hash, without the key.
	for _, guess := range []string{"com", "\x03com\x00", "com."} {
		sum := sha256.Sum256([]byte(guess))
		if labels[2] == hex.EncodeToString(sum[:hashLen])+"." {
			t.Error("the hash has no key")
		}
	}
	if hash(&other, "www.example.com.", morning) == www {
		t.Error("two processes have the same key")
	}
	next := hash(&h, "www.example.com.", morning.Add(24*time.Hour))
	for i, l := range strings.SplitAfter(next, ".") {
		if l != "" && l == labels[i] {
			t.Errorf("the next day: %s, %s", www, next)
		}
	}
	if got := hash(&h, "www.example.com.", evening); got != next {
		t.Errorf("a query of the day before, after midnight: %s, want the new key", got)
	}
	if got := h.name([]byte{0}, morning); got != "." {
		t.Errorf("the root: %q", got)
	}
	long := make([]byte, 0, wire.MaxName)
	for len(long) < wire.MaxName-1 {
		long = append(long, 1, 'a')
	}
	if got := h.name(append(long, 0), morning); strings.Count(got, ".") != 127 {
		t.Errorf("the longest name: %q", got)
	}
}

// TestHashedLines: the name is nowhere in the file.
func TestHashedLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, stop := open(t, Config{Path: path, HashNames: true})
	l.Observe(event(t, "www.secret.example."))
	l.Observe(event(t, "WWW.secret.example."))
	l.Observe(event(t, "other.secret.example."))
	stop()
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(strings.ToLower(string(text)), "secret") {
		t.Errorf("%v\n%s", err, text)
	}
	got := read(t, path)
	if len(got) != 3 || got[0].get("name") != got[1].get("name") || got[0].get("name") == got[2].get("name") {
		t.Errorf("%v", got)
	}
}
